//! P9: a subscriber stays in the list when its stream or consumer is lost, and what holds its events up is reported
//! with its cure. P7: a dead letter counts when it is stored.

use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use chrono::{TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use tidings::{
    Context, Event, EventPublisher, EventSubscriber, Failure, Retry, StartFrom, StreamSpec, Worker,
    event::Pattern,
    replays::{ReplayRequest, Replays},
    subscribers::{SubscriberIssue, SubscriberState, Subscribers, SubscribersError},
};

use crate::support::{Noted, User, World, events_stream, eventually, log};

type Sqlite = sqlx::Sqlite;

const NAME: &str = "lost";
const HOUR: Duration = Duration::from_secs(3600);

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(name = "audit.noted", version = 1, keyless)]
struct Audited {
    id: u32,
}

async fn note(user: User, cx: Context<Noted>) -> Result<(), Failure> {
    if user.id.starts_with("later") {
        return Err(Failure::retry_after(HOUR, "in an hour"));
    }
    if user.id.starts_with("bad") {
        return Err(Failure::reject("no such mailbox"));
    }
    cx.state().note(user.id);
    Ok(())
}

async fn note_audit(event: Audited, cx: Context<Noted>) -> Result<(), Failure> {
    cx.state().note(event.id.to_string());
    Ok(())
}

fn subscriber() -> EventSubscriber<Noted> {
    EventSubscriber::durable(NAME)
        .on(note)
        .retry(Retry::exponential(Duration::from_secs(1), HOUR).attempts(5))
}

fn worker(world: &World<Sqlite>, noted: &Noted) -> Worker<Noted> {
    Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber())
}

async fn delete_consumer(world: &World<Sqlite>, stream: &str) {
    let stream = world.jetstream().await.get_stream(stream).await.unwrap();
    stream.delete_consumer(NAME).await.unwrap();
}

/// The only subscriber in the list.
async fn listed(world: &World<Sqlite>) -> SubscriberState {
    let mut overview = Subscribers::new(&world.bus).overview().await;
    assert_eq!(overview.subscribers.len(), 1, "{overview:?}");
    overview.subscribers.remove(0)
}

fn issue<'a>(state: &'a SubscriberState, kind: &str) -> Option<&'a SubscriberIssue> {
    let mut issues = state.issues.iter();
    issues.find(|issue| issue.kind.as_str() == kind)
}

/// Waits until the list has an issue of this kind; returns it with its subscriber.
async fn becomes(world: &World<Sqlite>, kind: &str) -> (SubscriberState, SubscriberIssue) {
    eventually(kind, || async {
        let overview = Subscribers::new(&world.bus).overview().await;
        let mut all = overview.subscribers.iter();
        all.any(|one| issue(one, kind).is_some())
    })
    .await;
    let state = listed(world).await;
    let found = issue(&state, kind).expect("the issue").clone();
    (state, found)
}

async fn is_well(world: &World<Sqlite>) {
    eventually("nothing is wrong", || async {
        let overview = Subscribers::new(&world.bus).overview().await;
        let one = overview.subscribers.first();
        one.is_some_and(|one| one.issues.is_empty() && !one.instances.is_empty())
    })
    .await;
}

/// Runs a worker until it has handled these events.
async fn handled_before(world: &World<Sqlite>, ids: &[&str]) {
    let noted = Noted::default();
    let running = world.run(worker(world, &noted));
    world.publish_users(ids).await;
    noted.reach(ids.len()).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backlog_of_a_deleted_consumer_is_unknown_and_not_zero() {
    let world = World::<Sqlite>::start().await;
    handled_before(&world, &["a"]).await;
    delete_consumer(&world, "EVENTS").await;
    world.publish_users(["b", "c"]).await;

    let state = listed(&world).await;
    assert_eq!((&*state.name, state.known_pending), (NAME, None));
    assert_eq!(state.missing.len(), 1, "{state:?}");
    assert_eq!(state.missing[0].stream.as_deref(), Some("EVENTS"));
    let found = issue(&state, "no-consumer").expect("the issue");
    assert!(found.is_stuck && found.cause.contains("not known"));
    let cure = found.cure.as_deref().unwrap();
    assert!(
        cure.contains(&format!("subscribers remove {NAME}")),
        "{cure}"
    );
    let shown = Subscribers::new(&world.bus).find(NAME).await.unwrap();
    assert_eq!(shown.missing, state.missing);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_with_a_deleted_consumer_is_named_among_several() {
    let world = World::<Sqlite>::start().await;
    let audit = StreamSpec::new("AUDIT", [Pattern::parse("audit.>").unwrap()]).unwrap();
    world.bus.apply_stream(&audit).await.unwrap();
    let noted = Noted::default();
    let both = Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber().on(note_audit));
    let running = world.run(both);
    world.publish_users(["a"]).await;
    noted.reach(1).await;
    running.stop().await.unwrap();
    delete_consumer(&world, "AUDIT").await;
    let publisher = EventPublisher::new(&world.bus);
    publisher.publish(&Audited { id: 1 }).await.unwrap();

    let state = listed(&world).await;
    assert_eq!(state.known_pending, None, "{state:?}");
    let missing: Vec<_> = state
        .missing
        .iter()
        .map(|one| one.stream.as_deref())
        .collect();
    assert_eq!(missing, [Some("AUDIT")]);
    assert!(
        issue(&state, "no-consumer")
            .unwrap()
            .cause
            .contains("AUDIT")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_retry_stream_subscribers_stay_in_the_list() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let running = world.run(worker(&world, &noted));
    is_well(&world).await;
    let context = world.jetstream().await;
    context.delete_stream("RETRIES").await.unwrap();
    let (state, found) = becomes(&world, "retries-gone").await;
    assert_eq!(state.instances.len(), 1);
    assert!(found.is_stuck);
    assert_eq!(
        found.cure.as_deref(),
        Some("tidings streams apply, which creates it")
    );
    assert_eq!(state.retries, None, "what waited there is not known");
    running.stop().await.unwrap();
    let state = listed(&world).await;
    assert!(issue(&state, "retries-gone").is_some(), "nobody runs it");
    context.delete_stream("DEAD_LETTERS").await.unwrap();
    becomes(&world, "dead-letters-gone").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_any_stream_is_in_the_list() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let running = world.run(worker(&world, &noted));
    is_well(&world).await;
    let context = world.jetstream().await;
    for stream in ["EVENTS", "RETRIES", "DEAD_LETTERS"] {
        context.delete_stream(stream).await.unwrap();
    }
    eventually("it is missed by those who run it", || async {
        let overview = Subscribers::new(&world.bus).overview().await;
        let one = overview.subscribers.first();
        one.is_some_and(|one| one.consumers.is_empty() && one.instances.len() == 1)
    })
    .await;
    let state = listed(&world).await;
    let missing: Vec<_> = state
        .missing
        .iter()
        .map(|one| one.stream.as_deref())
        .collect();
    assert_eq!(missing, [Some("EVENTS"), Some("RETRIES")]);
    assert!(issue(&state, "consumer-deleted").is_some(), "{state:?}");
    for stream in StreamSpec::internal().into_iter().chain([events_stream()]) {
        world.bus.apply_stream(&stream).await.unwrap();
    }
    is_well(&world).await;
    running.stop().await.unwrap();
    context.delete_stream("RETRIES").await.unwrap();
    assert_eq!(listed(&world).await.name, NAME);
    context.delete_stream("EVENTS").await.unwrap();
    let overview = Subscribers::new(&world.bus).overview().await;
    assert_eq!(overview.subscribers, []);
    let found = overview.worst().expect("none where some ran is an issue").1;
    assert!(found.cause.contains("no stream RETRIES"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_another_application_is_named_without_issues() {
    let world = World::<Sqlite>::start().await;
    handled_before(&world, &["a"]).await;
    let stream = world.jetstream().await.get_stream("EVENTS").await.unwrap();
    let foreign = pull::Config {
        durable_name: Some("reporting".to_owned()),
        ..Default::default()
    };
    stream.create_consumer(foreign).await.unwrap();
    let overview = Subscribers::new(&world.bus).overview().await;
    let names: Vec<_> = overview.subscribers.iter().map(|one| &*one.name).collect();
    assert_eq!(names, [NAME]);
    let others: Vec<_> = overview
        .foreign
        .iter()
        .map(|other| (&*other.stream, &*other.name))
        .collect();
    assert_eq!(others, [("EVENTS", "reporting")], "one event waits for it");
    assert_eq!(overview.worst(), None);
    let removing = Subscribers::new(&world.bus).plan_remove("reporting").await;
    let refused = removing.expect_err("it is another's").to_string();
    assert!(refused.contains("another application"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_without_an_instance_are_an_issue_unless_paused() {
    let world = World::<Sqlite>::start().await;
    handled_before(&world, &["a"]).await;
    let state = listed(&world).await;
    assert_eq!(state.issues, [], "nothing waits");
    let seen_at = state.last_seen_at.expect("it has acknowledged");
    world.publish_users(["b"]).await;
    let (state, found) = becomes(&world, "no-instance").await;
    assert_eq!(
        (state.last_seen_at, found.since),
        (Some(seen_at), Some(seen_at))
    );
    assert!(
        found.is_stuck && found.cause.contains("1 pending"),
        "{found:?}"
    );
    for cause in ["down", "in the code", "may not subscribe", "frozen"] {
        assert!(found.cause.contains(cause), "{cause}: {found:?}");
    }
    let subscribers = Subscribers::new(&world.bus);
    subscribers.pause(NAME, None).await.unwrap();
    assert_eq!(listed(&world).await.issues, [], "somebody wanted it so");
    subscribers.resume(NAME).await.unwrap();
    let noted = Noted::default();
    let running = world.run(worker(&world, &noted));
    noted.reach(1).await;
    is_well(&world).await;
    running.stop().await.unwrap();
}

/// An instance that pulls but does not answer lacks a right, or is frozen: that differs from no instance.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_does_not_answer_is_not_taken_for_none() {
    let world = World::<Sqlite>::start().await;
    handled_before(&world, &["a"]).await;
    world.publish_users(["later"]).await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let inbox = client.new_inbox();
    let _answers = client.subscribe(inbox.clone()).await.unwrap();
    let pull = "{\"batch\":1000,\"expires\":120000000000}";
    let next = format!("$JS.API.CONSUMER.MSG.NEXT.EVENTS.{NAME}");
    client
        .publish_with_reply(next, inbox, pull.into())
        .await
        .unwrap();
    client.flush().await.unwrap();
    let (_, found) = becomes(&world, "no-instance").await;
    eventually("its pull is seen", || async {
        let state = listed(&world).await;
        issue(&state, "no-instance")
            .is_some_and(|found| found.cause.contains("1 pulls of an instance wait"))
    })
    .await;
    assert!(found.cure.unwrap().contains("allow_responses"));
    let refused = Subscribers::new(&world.bus).plan_remove(NAME).await;
    let refused = refused.expect_err("somebody pulls").to_string();
    assert!(refused.contains("still runs"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn distant_retries_are_counted_with_the_time_of_the_last() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let running = world.run(worker(&world, &noted));
    let ids: Vec<String> = (0..300).map(|n| format!("later-{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(|id| &**id).collect();
    world.publish_users(&ids).await;
    eventually("all wait", || async {
        let retries = listed(&world).await.retries;
        retries.is_some_and(|retries| retries.scheduled == 300)
    })
    .await;
    let state = listed(&world).await;
    let retries = state.retries.unwrap();
    assert_eq!(
        (state.known_pending, retries.due, retries.read),
        (Some(0), 0, 300)
    );
    let within = |at: chrono::DateTime<Utc>| {
        let wait = at - Utc::now();
        wait > TimeDelta::minutes(50) && wait < TimeDelta::minutes(61)
    };
    assert!(within(retries.next_at.unwrap()) && within(retries.farthest_at.unwrap()));
    assert!(retries.farthest_at >= retries.next_at);
    assert_eq!(state.issues, [], "that they wait is no issue");
    running.stop().await.unwrap();
    assert_eq!(listed(&world).await.issues, [], "nothing is due");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_without_an_instance_is_an_issue_of_its_subscriber() {
    let world = World::<Sqlite>::start().await;
    handled_before(&world, &["a"]).await;
    let request = ReplayRequest::new(StartFrom::Beginning).force();
    let replays = Replays::new(&world.bus);
    let replay = replays.start(NAME, &request).await.unwrap();
    let (_, found) = becomes(&world, "replay-stuck").await;
    assert!(found.is_stuck && found.cause.contains(&replay.id.to_string()));
    replays.pause(replay.id).await.unwrap();
    assert_eq!(listed(&world).await.issues, [], "somebody wanted it so");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_counts_and_is_logged_when_it_is_stored() {
    log::listen();
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let named = EventSubscriber::durable("unconfirmed-letters").on(note);
    let running = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(named));
    is_well(&world).await;
    let context = world.jetstream().await;
    context.delete_stream("DEAD_LETTERS").await.unwrap();
    world.publish_users(["bad"]).await;
    eventually("it was to be given up", || async {
        let instance = listed(&world).await.instances.remove(0);
        instance.issue.is_some_and(|why| {
            why.contains("DEAD_LETTERS is gone") && why.contains("tidings streams apply")
        })
    })
    .await;
    let counts = || async {
        let instance = listed(&world).await.instances.remove(0);
        (instance.dead_lettered, instance.handled)
    };
    assert_eq!(counts().await, (0, 0), "no letter is stored");
    let letters = || {
        let said = log::said("unconfirmed-letters");
        let is_letter = |line: &&String| line.contains("ERROR") && line.contains("letter stored");
        said.iter().filter(is_letter).count()
    };
    assert_eq!(letters(), 0);
    world
        .bus
        .apply_stream(&StreamSpec::dead_letters())
        .await
        .unwrap();
    eventually("its letter is stored and counted", || async {
        counts().await == (1, 0)
    })
    .await;
    assert_eq!(letters(), 1);
    assert_eq!(world.dead_letters().await.0.len(), 1);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_without_its_stream_names_the_stream_and_the_cure() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let running = world.run(worker(&world, &noted));
    is_well(&world).await;
    world
        .jetstream()
        .await
        .delete_stream("RETRIES")
        .await
        .unwrap();
    world.publish_users(["later"]).await;
    eventually("the retry is told", || async {
        let instance = listed(&world).await.instances.remove(0);
        instance
            .issue
            .is_some_and(|why| why.contains("RETRIES") && why.contains("tidings streams apply"))
    })
    .await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_needs_a_stopped_subscriber_and_dead_letters_retries() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let running = world.run(worker(&world, &noted));
    world
        .publish_users(["later-1", "later-2", "bad", "a"])
        .await;
    noted.reach(1).await;
    eventually("two wait, and one is a letter", || async {
        let state = listed(&world).await;
        let instance = &state.instances[0];
        state.retries.is_some_and(|retries| retries.scheduled == 2) && instance.dead_lettered == 1
    })
    .await;
    let subscribers = Subscribers::new(&world.bus);
    let refused = subscribers.plan_remove(NAME).await;
    let refused = refused.expect_err("it runs").to_string();
    assert!(refused.contains("still runs: process"), "{refused}");
    running.stop().await.unwrap();
    world.publish_users(["b"]).await;

    let mut plan = None;
    eventually("its pulls have ended", || async {
        subscribers.plan_remove(NAME).await.is_ok()
    })
    .await;
    plan.replace(subscribers.plan_remove(NAME).await.unwrap());
    let plan = plan.unwrap();
    assert_eq!((plan.retries.scheduled, plan.dead_letters), (2, Some(1)));
    let events = plan.consumers.iter().find(|one| one.stream == "EVENTS");
    assert_eq!(events.map(|one| one.pending), Some(1));
    assert_eq!(subscribers.remove(&plan).await.unwrap(), 2);

    let letters = world.dead_letters().await;
    let causes: Vec<_> = letters
        .0
        .iter()
        .map(|letter| letter.header("tidings-dead-cause"))
        .collect();
    assert_eq!(causes, ["rejected", "removed", "removed"]);
    for letter in &letters.0[1..] {
        assert_eq!(letter.subject, format!("dead-letter.{NAME}.user.created"));
        assert_eq!(letter.header("tidings-dead-stream"), "EVENTS");
        assert_eq!(letter.header("tidings-dead-attempts"), "1");
        assert!(letter.json()["id"].as_str().unwrap().starts_with("later-"));
    }
    assert_eq!(subscribers.overview().await.subscribers, []);
    let again = subscribers.plan_remove(NAME).await.expect_err("it is gone");
    assert!(
        again.to_string().contains("there is no subscriber"),
        "{again}"
    );
    let unknown = subscribers.find(NAME).await;
    assert!(matches!(unknown, Err(SubscribersError::Unknown { .. })));
    assert_eq!(world.stored().await.0.len(), 5, "events stay");
}

/// A removal that was interrupted is completed by the next one.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_removal_completes_an_interrupted_one() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let running = world.run(
        Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber().ordered_by_key()),
    );
    world.publish_users(["a"]).await;
    noted.reach(1).await;
    running.stop().await.unwrap();
    for stream in ["EVENTS", "RETRIES"] {
        delete_consumer(&world, stream).await;
    }
    let subscribers = Subscribers::new(&world.bus);
    let plan = subscribers.plan_remove(NAME).await.unwrap();
    assert_eq!(plan.entries, [format!("lease.{NAME}")]);
    subscribers.remove(&plan).await.unwrap();
    assert!(
        subscribers.plan_remove(NAME).await.is_err(),
        "nothing is left"
    );
}
