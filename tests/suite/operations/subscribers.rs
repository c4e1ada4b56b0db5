//! Subscribers from the outside: the reports of their instances, differences of their consumers, and pauses.

use std::time::Duration;

use async_nats::jetstream::{self, consumer::pull};
use chrono::{TimeDelta, Utc};
use tidings::{
    Context, EventPublisher, EventSubscriber, Failure, Rate, Retry, Worker,
    subscribers::{
        Activity, CircuitState, Instance, SubscriberConsumer, SubscriberState, Subscribers,
        SubscribersError,
    },
};
use tokio::sync::watch;

use crate::support::{Noted, User, World, eventually, log};

type Sqlite = sqlx::Sqlite;

const NAME: &str = "watched";

async fn publish(world: &World<Sqlite>, users: impl IntoIterator<Item = User>) {
    let publisher = EventPublisher::new(&world.bus);
    for user in users {
        publisher.publish(&user).await.unwrap();
    }
}

async fn state(world: &World<Sqlite>) -> SubscriberState {
    Subscribers::new(&world.bus).find(NAME).await.unwrap()
}

/// Waits until the state is like this; a subscriber that was never started has no state.
async fn becomes(world: &World<Sqlite>, what: &str, is: impl Fn(&SubscriberState) -> bool) {
    eventually(what, || async {
        let found = Subscribers::new(&world.bus).find(NAME).await;
        found.is_ok_and(|state| is(&state))
    })
    .await;
}

/// The consumer of the events.
fn of_events(state: &SubscriberState) -> &SubscriberConsumer {
    let found = state.consumers.iter().find(|one| one.stream == "EVENTS");
    found.expect("a consumer of EVENTS")
}

/// Waits until the instances are like this, and returns them.
async fn replicas_are(
    world: &World<Sqlite>,
    what: &str,
    are: impl Fn(&[Instance]) -> bool,
) -> Vec<Instance> {
    becomes(world, what, |state| are(&state.instances)).await;
    state(world).await.instances
}

fn all_work(instances: &[Instance]) -> bool {
    instances.len() == 1 && instances[0].activity == Activity::Active
}

/// Waits until a pull is at the server: every event that may be delivered is delivered then.
async fn it_pulls(world: &World<Sqlite>) {
    becomes(world, "a pull of an instance that works", |state| {
        all_work(&state.instances) && of_events(state).pulls > 0
    })
    .await;
}

async fn note(user: User, cx: Context<Noted>) -> Result<(), Failure> {
    cx.state().note(user.email);
    Ok(())
}

fn watched() -> EventSubscriber<Noted> {
    EventSubscriber::durable(NAME).on(note)
}

/// Changes the consumer with the NATS client, not with Tidings.
async fn change(world: &World<Sqlite>, change: impl FnOnce(&mut pull::Config)) {
    let stream = events(world).await;
    let consumer: jetstream::consumer::PullConsumer = stream.get_consumer(NAME).await.unwrap();
    let mut config = pull::Config {
        durable_name: Some(NAME.to_owned()),
        filter_subject: "user.created".to_owned(),
        ..Default::default()
    };
    config.ack_wait = consumer.cached_info().config.ack_wait;
    change(&mut config);
    stream.update_consumer(config).await.unwrap();
}

async fn events(world: &World<Sqlite>) -> jetstream::stream::Stream {
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    jetstream::new(client).get_stream("EVENTS").await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_report_their_activity_and_hot_keys() {
    async fn picky(user: User, cx: Context<watch::Receiver<bool>>) -> Result<(), Failure> {
        match user.id.as_str() {
            "hot" => Err(Failure::retry("the hot one fails")),
            "slow" => {
                let mut is_open = cx.state().clone();
                let _ = is_open.wait_for(|is_open| *is_open).await;
                Ok(())
            }
            _ => Err(Failure::reject("the others are given up")),
        }
    }
    let world = World::<Sqlite>::start().await;
    let (open, is_open) = watch::channel(false);
    let hour = Duration::from_secs(3600);
    let subscriber = || {
        EventSubscriber::durable(NAME)
            .on(picky)
            .retry(Retry::exponential(hour, hour).attempts(3))
            .rate_limit(Rate::per_second(500))
            .timeout(hour)
            .concurrency(5)
            .ordered_by_key()
    };
    let first = world.run(Worker::new(world.bus.clone(), is_open.clone()).subscribe(subscriber()));
    replicas_are(&world, "the first one works", all_work).await;
    let second = world.run(Worker::new(world.bus.clone(), is_open).subscribe(subscriber()));
    let keys = ["hot", "hot", "hot", "hot", "slow", "slow", "other"];
    publish(&world, keys.map(User::new)).await;

    let settled = |instances: &[Instance]| {
        let is_settled = |one: &Instance| one.failed == 1 && one.dead_lettered == 1;
        instances.len() == 2
            && instances.iter().any(is_settled)
            && instances[1].activity == Activity::Standby
    };
    let instances = replicas_are(&world, "one works and one stands by", settled).await;
    let (working, standing_by) = (&instances[0], &instances[1]);
    assert_eq!((working.running, working.resting), (Some(1), Some(1)));
    assert_eq!(
        working.in_flight, 6,
        "three behind the hot one, one behind the slow one"
    );
    assert!(working.in_flight_bytes > 6 * 50);
    let hot: Vec<_> = working
        .hottest
        .iter()
        .map(|hot| (&*hot.key, hot.waiting))
        .collect();
    assert_eq!(hot, [("hot", 3), ("slow", 1)]);
    assert_eq!(
        (working.holds_lease, standing_by.holds_lease),
        (Some(true), Some(false))
    );
    assert_eq!((standing_by.running, standing_by.in_flight), (None, 0));
    assert_eq!(working.circuit, CircuitState::Closed);
    assert_eq!(
        working.retry,
        "3 attempts: after 2 times 1 h (each 50 to 100 %), then dead letter"
    );
    assert_eq!(working.rate.as_deref(), Some("500 per second"));
    assert_eq!((working.concurrency, working.timeout_ms), (5, 3_600_000));
    assert_eq!(
        (working.pid, working.version.as_str()),
        (std::process::id(), env!("CARGO_PKG_VERSION"))
    );
    assert!(Utc::now() - working.last_delivery_at.unwrap() < TimeDelta::minutes(2));
    assert_eq!(working.issue, None);
    assert_ne!(working.id, standing_by.id);

    open.send(true).unwrap();
    let handled = |instances: &[Instance]| instances.iter().any(|one| one.handled == 2);
    replicas_are(&world, "the slow ones are handled", handled).await;
    first.stop().await.unwrap();
    second.stop().await.unwrap();
    assert_eq!(
        state(&world).await.instances,
        [],
        "nobody is left to answer"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_answers_again_when_the_server_is_back() {
    let world = World::<Sqlite>::start().await;
    let running = world.run(Worker::new(world.bus.clone(), Noted::default()).subscribe(watched()));
    let before = replicas_are(&world, "it works", all_work).await;
    world.nats.kill().unwrap();
    world.nats.restart().await.unwrap();
    becomes(&world, "an answer of the same instance", |state| {
        all_work(&state.instances) && state.instances[0].id == before[0].id
    })
    .await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_is_in_the_status_with_its_cause_until_it_ends() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let running = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(watched()));
    it_pulls(&world).await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let context = jetstream::new(client);
    context.delete_stream("EVENTS").await.unwrap();

    let is_told = |instances: &[Instance]| {
        let issue = instances.first().and_then(|one| one.issue.as_deref());
        issue.is_some_and(|why| why.contains("EVENTS"))
    };
    replicas_are(&world, "the issue is told", is_told).await;

    let stream = crate::support::events_stream();
    world.bus.apply_stream(&stream).await.unwrap();
    publish(&world, [User::new("after")]).await;
    noted.reach(1).await;
    let is_well = |instances: &[Instance]| instances.len() == 1 && instances[0].issue.is_none();
    replicas_are(&world, "it is well again", is_well).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_differences_are_shown_and_fixed_by_the_next_worker() {
    log::listen();
    let world = World::<Sqlite>::start().await;
    let worker = || Worker::new(world.bus.clone(), Noted::default()).subscribe(watched());
    let running = world.run(worker());
    it_pulls(&world).await;
    let created = events(&world)
        .await
        .consumer_info(NAME)
        .await
        .unwrap()
        .created;
    assert!(
        state(&world)
            .await
            .consumers
            .iter()
            .all(|one| one.drift.is_empty())
    );
    change(&world, |config| config.max_ack_pending = 77).await;

    let state = state(&world).await;
    let drift = &of_events(&state).drift;
    let found: Vec<_> = drift
        .iter()
        .filter(|drift| drift.setting == "max_ack_pending")
        .map(|drift| (drift.now.as_u64(), drift.wanted.as_u64(), &*drift.instances))
        .collect();
    assert_eq!(
        found,
        [(Some(77), Some(10_000), &[state.instances[0].id.clone()][..])]
    );
    running.stop().await.unwrap();

    let running = world.run(worker());
    it_pulls(&world).await;
    let state = self::state(&world).await;
    assert_eq!(of_events(&state).drift, []);
    assert_eq!(of_events(&state).config["max_ack_pending"], 10_000);
    let said = log::said("consumer updated");
    let is_named = |line: &String| {
        line.contains("max_ack_pending") && line.contains("now=\"77\" wanted=\"10000\"")
    };
    assert!(said.iter().any(is_named), "{said:?}");
    let info = events(&world).await.consumer_info(NAME).await.unwrap();
    assert_eq!(info.created, created, "it is the same consumer");
    running.stop().await.unwrap();
}

/// Pauses a subscriber; meanwhile worker and server restart, and the worker updates the consumer.
async fn stays_paused(subscriber: impl Fn() -> EventSubscriber<Noted>) {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let worker = || Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber());
    let running = world.run(worker());
    publish(&world, [User::new("before")]).await;
    noted.reach(1).await;
    let subscribers = Subscribers::new(&world.bus);
    let end = Utc::now() + TimeDelta::hours(1);
    subscribers.pause(NAME, Some(end)).await.unwrap();
    publish(&world, (0..10).map(|n| User::new(&n.to_string()))).await;
    running.stop().await.unwrap();
    change(&world, |config| config.max_ack_pending = 77).await;
    world.nats.stop().await.unwrap();
    world.nats.restart().await.unwrap();
    let running = world.run(worker());
    it_pulls(&world).await;

    let paused = state(&world).await;
    assert_eq!(
        of_events(&paused).config["max_ack_pending"],
        10_000,
        "it is updated"
    );
    assert_eq!(
        (paused.consumers.len(), of_events(&paused).pending),
        (2, 10)
    );
    let ends: Vec<_> = paused
        .consumers
        .iter()
        .map(|one| one.paused_until)
        .collect();
    assert_eq!(ends, [Some(end), Some(end)], "the retries too");
    assert_eq!(paused.paused_until, Some(end));
    assert_eq!(noted.len(), 1);

    subscribers.resume(NAME).await.unwrap();
    noted.reach(11).await;
    assert_eq!(state(&world).await.paused_until, None);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_outlasts_restarts_and_updates() {
    stays_paused(watched).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordered_subscribers_pause_outlasts_restarts_and_updates() {
    stays_paused(|| watched().ordered_by_key()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_created_during_a_pause_is_paused() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let worker = || Worker::new(world.bus.clone(), noted.clone()).subscribe(watched());
    let running = world.run(worker());
    it_pulls(&world).await;
    let subscribers = Subscribers::new(&world.bus);
    let end = subscribers.pause(NAME, None).await.unwrap();
    publish(&world, [User::new("waits")]).await;
    // While the worker runs, and before the next one starts.
    events(&world).await.delete_consumer(NAME).await.unwrap();
    becomes(&world, "the consumer is there again", |state| {
        state.consumers.len() == 2 && of_events(state).pulls > 0
    })
    .await;
    assert_eq!(state(&world).await.paused_until, Some(end));
    running.stop().await.unwrap();
    events(&world).await.delete_consumer(NAME).await.unwrap();
    let running = world.run(worker());
    it_pulls(&world).await;

    assert_eq!(state(&world).await.paused_until, Some(end));
    assert_eq!(noted.len(), 0);
    subscribers.resume(NAME).await.unwrap();
    noted.reach(1).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_subscribers_are_listed_and_an_unknown_one_is_named() {
    let world = World::<Sqlite>::start().await;
    let worker = Worker::new(world.bus.clone(), Noted::default()).subscribe(watched());
    let running = world.run(worker);
    it_pulls(&world).await;
    let foreign = pull::Config {
        durable_name: Some("foreign".to_owned()),
        ..Default::default()
    };
    events(&world).await.create_consumer(foreign).await.unwrap();
    let subscribers = Subscribers::new(&world.bus);
    let names: Vec<_> = subscribers
        .list()
        .await
        .unwrap()
        .into_iter()
        .map(|one| one.name)
        .collect();
    assert_eq!(names, [NAME]);
    let unknown = subscribers.pause("nobody", None).await;
    assert!(matches!(unknown, Err(SubscribersError::Unknown { name }) if name == "nobody"));
    running.stop().await.unwrap();
}
