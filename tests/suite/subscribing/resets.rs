//! After an operator has reset a subscriber to another position, it gets all events from there on, handled or not.

use async_nats::jetstream;
use tidings::{
    Context, EventPublisher, EventSubscriber, Failure, InboxTransaction, StartFrom, Worker,
    subscribers::{ResetError, SubscriberReset, Subscribers},
};

use crate::{
    both,
    support::{App, Counted, Database, Noted, User, World, eventually},
};

type Sqlite = sqlx::Sqlite;

const NAME: &str = "rewound";

/// Publishes the n-th event of a key.
async fn publish<DB: Database>(world: &World<DB>, key: &str, n: u32) {
    let user = User {
        id: key.to_owned(),
        email: format!("{key}-{n}@example.org"),
    };
    let publisher = EventPublisher::new(&world.bus);
    publisher.publish(&user).await.unwrap();
}

async fn publish_many<DB: Database>(world: &World<DB>, key: &str, count: u32) {
    for n in 1..=count {
        publish(world, key, n).await;
    }
}

async fn reset<DB: Database>(world: &World<DB>, to: StartFrom) -> SubscriberReset {
    let subscribers = Subscribers::new(&world.bus);
    let plan = subscribers.plan_reset(NAME, to, None).await.unwrap();
    subscribers.reset(&plan).await.unwrap();
    plan
}

/// Waits until all published events are handled and acked.
async fn is_idle<DB: Database>(world: &World<DB>) {
    eventually("all is acknowledged", || async {
        let found = Subscribers::new(&world.bus).find(NAME).await.unwrap();
        found.pending() == 0 && found.ack_pending() == 0
    })
    .await;
}

fn ids(key: &str, numbers: impl IntoIterator<Item = u32>) -> Vec<String> {
    let numbers = numbers.into_iter();
    numbers.map(|n| format!("{key}-{n}")).collect()
}

async fn what_this_process_has_handled_is_handled_again(subscriber: EventSubscriber<App>) {
    let world = World::<Sqlite>::start().await;
    let app = App::default();
    let running = world.run(app.worker(&world, subscriber));
    // The first event holds back the ack floor, so that the process remembers the others.
    publish(&world, "stuck", 0).await;
    publish_many(&world, "a", 5).await;
    app.noted.reach(6).await;
    let plan = reset(&world, StartFrom::Sequence(3)).await;
    assert_eq!((plan.again(), plan.skipped()), (4, 0));
    eventually("it is handled again", || async { app.of("a").len() >= 9 }).await;
    app.open.close();
    is_idle(&world).await;
    running.stop().await.unwrap();
    let mut handled = app.of("a");
    handled[5..].sort();
    assert_eq!(handled[5..], ids("a", 2..=5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_redelivers_handled_events_without_order() {
    what_this_process_has_handled_is_handled_again(App::subscriber(NAME)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_redelivers_handled_events_in_order() {
    what_this_process_has_handled_is_handled_again(App::subscriber(NAME).ordered_by_key()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_instances_share_redelivered_events() {
    let world = World::<Sqlite>::start().await;
    let app = App::default();
    let (one, other) = (
        world.run(app.worker(&world, App::subscriber(NAME))),
        world.run(app.worker(&world, App::subscriber(NAME))),
    );
    publish(&world, "stuck", 0).await;
    publish_many(&world, "a", 60).await;
    app.noted.reach(61).await;
    reset(&world, StartFrom::Beginning).await;
    app.open.close();
    eventually("all of it again", || async {
        ids("a", 1..=60)
            .iter()
            .all(|id| app.noted.all().iter().filter(|note| *note == id).count() >= 2)
    })
    .await;
    is_idle(&world).await;
    one.stop().await.unwrap();
    other.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_in_flight_is_redelivered_behind_older_ones() {
    let world = World::<Sqlite>::start().await;
    let app = App::default();
    let running = world.run(app.worker(&world, App::subscriber(NAME).ordered_by_key()));
    app.open.add_permits(1000);
    publish_many(&world, "stuck", 4).await;
    app.noted.reach(4).await;
    app.open.forget_permits(1000);
    publish_many(&world, "stuck", 1).await;
    app.noted.reach(5).await;
    // The fifth event is being handled, and waits.
    reset(&world, StartFrom::Sequence(2)).await;
    app.noted.reach(6).await;
    app.open.close();
    is_idle(&world).await;
    running.stop().await.unwrap();
    let handled = app.of("stuck");
    assert_eq!(handled[5..], ids("stuck", [2, 3, 4, 1]), "{handled:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_recorded_for_the_next_instance_are_handled_again() {
    let world = World::<Sqlite>::start().await;
    let app = App::default();
    let running = world.run(app.worker(&world, App::subscriber(NAME).ordered_by_key()));
    publish(&world, "failing", 0).await;
    publish_many(&world, "a", 3).await;
    app.noted.reach(4).await;
    running.stop().await.unwrap();
    reset(&world, StartFrom::Beginning).await;
    let running = world.run(app.worker(&world, App::subscriber(NAME).ordered_by_key()));
    eventually("they come again", || async { app.of("a").len() == 6 }).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn skipped_events_are_never_delivered() {
    let world = World::<Sqlite>::start().await;
    let app = App::default();
    let running = world.run(app.worker(&world, App::subscriber(NAME).ordered_by_key()));
    publish(&world, "a", 0).await;
    app.noted.reach(1).await;
    running.stop().await.unwrap();
    publish_many(&world, "a", 4).await;
    let plan = reset(&world, StartFrom::New).await;
    assert_eq!((plan.again(), plan.skipped()), (0, 4));
    let one = &plan.streams[0];
    assert_eq!((one.from, one.to, one.names["user.created"]), (2, 6, 4));
    assert!(one.first_at < one.last_at);
    let running = world.run(app.worker(&world, App::subscriber(NAME).ordered_by_key()));
    publish(&world, "a", 5).await;
    app.noted.reach(2).await;
    running.stop().await.unwrap();
    assert_eq!(app.noted.all(), ids("a", [0, 5]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_durable_redelivers_no_acked_event() {
    let world = World::<Sqlite>::start().await;
    let app = App::default();
    let running = world.run(app.worker(&world, App::subscriber(NAME)));
    publish(&world, "stuck", 0).await;
    publish_many(&world, "a", 5).await;
    app.noted.reach(6).await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let stream = jetstream::new(client).get_stream("EVENTS").await.unwrap();
    stream.delete_consumer(NAME).await.unwrap();
    publish(&world, "a", 6).await;
    app.noted.reach(7).await;
    app.open.close();
    is_idle(&world).await;
    running.stop().await.unwrap();
    let mut handled = app.of("a");
    handled.sort();
    assert_eq!(handled, ids("a", 1..=6));
}

/// A server that was killed may have forgotten confirmed acks. The process still knows them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_forgotten_by_a_killed_server_repeat_no_event() {
    let world = World::<Sqlite>::start().await;
    let app = App::default();
    let running = world.run(app.worker(&world, App::subscriber(NAME)));
    // This event holds back the ack floor, so that the process remembers the others.
    publish(&world, "stuck", 0).await;
    let mut published = 0;
    for _ in 0..5 {
        for _ in 0..30 {
            published += 1;
            publish(&world, "a", published).await;
        }
        app.noted.reach(1 + published as usize).await;
        world.nats.kill().unwrap();
        world.nats.restart().await.unwrap();
        eventually("it is back", || async {
            Subscribers::new(&world.bus).find(NAME).await.is_ok()
        })
        .await;
    }
    app.open.close();
    is_idle(&world).await;
    running.stop().await.unwrap();
    let mut handled = app.of("a");
    handled.sort_by_key(|id| id[2..].parse::<u32>().unwrap());
    assert_eq!(handled, ids("a", 1..=published));
}

async fn a_reset_repeats_no_transactional_effect<DB: Database>(world: World<DB>) {
    async fn once<DB: Database>(
        user: User,
        _: InboxTransaction<DB>,
        cx: Context<Noted>,
    ) -> Result<(), Failure> {
        cx.state().note(user.id);
        Ok(())
    }
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable(NAME).on_transactional(&world.outbox, once::<DB>);
    let running = world.run(Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber));
    publish_many(&world, "a", 3).await;
    noted.reach(3).await;
    is_idle(&world).await;
    reset(&world, StartFrom::Beginning).await;
    publish(&world, "a", 4).await;
    noted.reach(4).await;
    is_idle(&world).await;
    running.stop().await.unwrap();
    assert_eq!(noted.len(), 4);
}

both!(a_reset_repeats_no_transactional_effect);

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_does_not_exist_is_refused() {
    async fn count(_: Counted, _: Context<App>) -> Result<(), Failure> {
        Ok(())
    }
    let world = World::<Sqlite>::start().await;
    world.two_streams().await;
    publish_many(&world, "a", 3).await;
    let app = App::default();
    let running = world.run(app.worker(
        &world,
        App::subscriber(NAME).on(count).start(StartFrom::New),
    ));
    eventually("the consumers are there", || async {
        let found = Subscribers::new(&world.bus).find(NAME).await;
        found.is_ok_and(|found| found.consumers.len() == 3)
    })
    .await;
    let subscribers = Subscribers::new(&world.bus);
    let plan = async |to, stream| subscribers.plan_reset(NAME, to, stream).await;
    let of_two = plan(StartFrom::Sequence(1), None).await;
    assert!(matches!(of_two, Err(ResetError::WhichStream { .. })));
    let of_none = plan(StartFrom::New, Some("OTHERS")).await;
    assert!(matches!(of_none, Err(ResetError::NotItsStream { .. })));
    let of_retries = plan(StartFrom::New, Some("RETRIES")).await;
    assert!(matches!(of_retries, Err(ResetError::NotItsStream { .. })));
    let behind = plan(StartFrom::Sequence(5), Some("EVENTS")).await;
    assert!(matches!(
        behind,
        Err(ResetError::BehindTheEnd { last: 3, .. })
    ));
    let before = plan(StartFrom::Sequence(3), Some("EVENTS")).await;
    assert!(matches!(before, Err(ResetError::BeforeItsStart { .. })));
    let at_its_start = plan(StartFrom::Sequence(4), Some("EVENTS")).await;
    assert_eq!(at_its_start.unwrap().streams.len(), 1);
    running.stop().await.unwrap();
}
