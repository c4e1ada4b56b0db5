//! P5, P6, P7: when an older copy of the server's store is put back, or a stream is recreated, sequences are reused
//! for other events. Each of these has its effect: a worker remembers the event, not its sequence.

use std::time::Duration;

use async_nats::jetstream;
use tidings::{
    Context, EventPublisher, EventSubscriber, Failure, Rate, Retry, replays::ReplayState,
    verify::Verify,
};

use crate::support::{
    App, Counted, Database, Past, User, World, events_stream, eventually, everything,
};

type Sqlite = sqlx::Sqlite;

const NAME: &str = "rolled-back";
const HOUR: Duration = Duration::from_secs(3600);

/// Publishes events of ten keys as soon as the server accepts them.
async fn publish<DB: Database>(world: &World<DB>, prefix: &str, count: usize) {
    let publisher = EventPublisher::new(&world.bus);
    for n in 0..count {
        let user = User {
            id: format!("key-{}", n % 10),
            email: format!("{prefix}-{n:03}"),
        };
        eventually("it is stored", || async {
            publisher.publish(&user).await.is_ok()
        })
        .await;
    }
}

async fn publish_one<DB: Database>(world: &World<DB>, id: &str, email: &str) {
    let user = User {
        id: id.to_owned(),
        email: email.to_owned(),
    };
    let publisher = EventPublisher::new(&world.bus);
    publisher.publish(&user).await.unwrap();
}

async fn have_effects(app: &App, prefix: &str, count: usize) {
    eventually(
        &format!("all {count} {prefix} have their effect"),
        || async {
            let mut each = app.of(prefix);
            each.sort();
            each.dedup();
            each.len() == count
        },
    )
    .await;
}

async fn info<DB: Database>(world: &World<DB>) -> Option<jetstream::consumer::Info> {
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let stream = jetstream::new(client).get_stream("EVENTS").await.ok()?;
    stream.consumer_info(NAME).await.ok()
}

/// Whether a key that always fails holds back the ack floor.
#[derive(Clone, Copy, PartialEq)]
enum Floor {
    Held,
    Free,
}

/// The part of the store that is put back.
#[derive(Clone, Copy, PartialEq)]
enum Back {
    Everything,
    /// All other streams of the server, with leases and retries, are unchanged.
    TheStream,
}

/// Publishes events at sequences that are known as handled.
async fn new_events_have_their_effects(subscriber: EventSubscriber<App>, floor: Floor, back: Back) {
    let (world, past) = Past::world::<Sqlite>().await;
    let app = App::default();
    let running = world.run(app.worker(&world, subscriber));
    if floor == Floor::Held {
        publish_one(&world, "failing", "failing").await;
        app.noted.reach(1).await;
    }
    publish(&world, "before", 50).await;
    have_effects(&app, "before", 50).await;
    past.keep(&world.nats).await;
    publish(&world, "lost", 100).await;
    have_effects(&app, "lost", 100).await;
    match back {
        Back::Everything => past.put_back(&world.nats).await,
        Back::TheStream => past.put_back_stream(&world.nats, "EVENTS").await,
    }
    publish(&world, "new", 150).await;
    have_effects(&app, "new", 150).await;
    running.stop().await.unwrap();
}

macro_rules! older_copies {
    ($($name:ident: $subscriber:expr, $floor:ident, $back:ident;)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            new_events_have_their_effects($subscriber, Floor::$floor, Back::$back).await;
        })+
    };
}

older_copies! {
    new_events_have_effects_in_order: App::subscriber(NAME).ordered_by_key(), Free, Everything;
    new_events_have_effects_in_order_above_a_held_floor: App::subscriber(NAME).ordered_by_key(), Held, Everything;
    new_events_have_effects_in_order_with_an_older_stream: App::subscriber(NAME).ordered_by_key(), Held, TheStream;
    new_events_have_effects_without_order: App::subscriber(NAME), Free, Everything;
    new_events_have_effects_without_order_above_a_held_floor: App::subscriber(NAME), Held, Everything;
    new_events_have_effects_without_order_with_an_older_stream: App::subscriber(NAME), Held, TheStream;
}

/// The copy is from before the subscriber had a consumer: the consumer is recreated, after the handled events.
async fn a_consumer_that_the_copy_does_not_have(subscriber: EventSubscriber<App>) {
    let (world, past) = Past::world::<Sqlite>().await;
    let app = App::default();
    publish(&world, "before", 50).await;
    past.keep(&world.nats).await;
    let running = world.run(app.worker(&world, subscriber));
    publish(&world, "lost", 100).await;
    have_effects(&app, "lost", 100).await;
    have_effects(&app, "before", 50).await;
    past.put_back_stream(&world.nats, "EVENTS").await;
    publish(&world, "new", 50).await;
    have_effects(&app, "new", 50).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_missing_in_the_copy_misses_no_event() {
    a_consumer_that_the_copy_does_not_have(App::subscriber(NAME)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordered_consumer_missing_in_the_copy_misses_no_event() {
    a_consumer_that_the_copy_does_not_have(App::subscriber(NAME).ordered_by_key()).await;
}

/// As an operator does it: the loss is found and repaired while services continue to run.
async fn what_is_repaired_and_what_is_new_have_effects(floor: Floor) {
    const FAILS: i64 = 999;
    async fn note(counted: Counted, cx: Context<App>) -> Result<(), Failure> {
        cx.state().noted.note(format!("count-{:03}", counted.count));
        match &*counted.key {
            "failing" => Err(Failure::retry("it always fails")),
            _ => Ok(()),
        }
    }
    let (world, past) = Past::world::<Sqlite>().await;
    let app = App::default();
    let retry = Retry::exponential(HOUR, HOUR).attempts(3);
    let subscriber = EventSubscriber::durable(NAME).on(note).retry(retry);
    let running = world.run(app.worker(&world, subscriber.ordered_by_key()));
    let relay = world.relay();
    let commit = async |counts: std::ops::Range<i64>| {
        let mut tx = world.outbox.begin().await.unwrap();
        for count in counts {
            let key = match count {
                FAILS => "failing".to_owned(),
                count => format!("key-{}", count % 3),
            };
            tx.publish(&Counted { key, count }).unwrap();
        }
        tx.commit().await.unwrap();
    };
    if floor == Floor::Held {
        commit(FAILS..FAILS + 1).await;
        app.noted.reach(1).await;
    }
    let of_floor = usize::from(floor == Floor::Held);
    commit(0..50).await;
    have_effects(&app, "count", 50 + of_floor).await;
    past.keep(&world.nats).await;
    commit(50..150).await;
    have_effects(&app, "count", 150 + of_floor).await;
    past.put_back(&world.nats).await;
    commit(150..200).await;
    have_effects(&app, "count", 200 + of_floor).await;
    eventually("the loss is repaired", || async {
        let verify = Verify::new(&world.bus, &world.outbox);
        verify.repair().await.is_ok()
    })
    .await;
    commit(200..300).await;
    have_effects(&app, "count", 300 + of_floor).await;
    relay.stop().await.unwrap();
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repaired_and_new_events_have_effects_above_a_held_floor() {
    what_is_repaired_and_what_is_new_have_effects(Floor::Held).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repaired_and_new_events_have_effects_above_a_free_floor() {
    what_is_repaired_and_what_is_new_have_effects(Floor::Free).await;
}

/// When a new event has the sequence of one in flight, it is neither skipped nor acked by the other one's answer.
async fn a_stream_recreated_during_a_delivery(subscriber: EventSubscriber<App>) {
    let world = World::<Sqlite>::start().await;
    let app = App::default();
    let running = world.run(app.worker(&world, subscriber));
    publish_one(&world, "stuck", "old").await;
    app.noted.reach(1).await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let jetstream = jetstream::new(client);
    jetstream.delete_stream("EVENTS").await.unwrap();
    world.bus.apply_stream(&events_stream()).await.unwrap();
    publish_one(&world, "another", "new").await;
    have_effects(&app, "new", 1).await;
    publish_one(&world, "waits", "second").await;
    have_effects(&app, "second", 1).await;
    app.open.close();
    eventually("all is acknowledged", || async {
        info(&world).await.is_some_and(|info| {
            info.num_pending == 0
                && info.num_ack_pending == 0
                && info.ack_floor.stream_sequence == 2
        })
    })
    .await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_recreated_during_a_delivery_loses_none() {
    a_stream_recreated_during_a_delivery(App::subscriber(NAME)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_recreated_during_a_delivery_loses_none_in_order() {
    a_stream_recreated_during_a_delivery(App::subscriber(NAME).ordered_by_key()).await;
}

/// The handlers of both events run; the first one ends, and its ack has the sequence of the second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ack_of_a_lost_event_acks_no_other_event() {
    let world = World::<Sqlite>::start().await;
    let app = App::default();
    let running = world.run(app.worker(&world, App::subscriber(NAME)));
    publish_one(&world, "stuck", "old").await;
    app.noted.reach(1).await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let jetstream = jetstream::new(client);
    jetstream.delete_stream("EVENTS").await.unwrap();
    world.bus.apply_stream(&events_stream()).await.unwrap();
    publish_one(&world, "stuck", "new").await;
    have_effects(&app, "new", 1).await;
    // The first handler in the queue gets the permit.
    app.open.add_permits(1);
    publish_one(&world, "quick", "behind").await;
    have_effects(&app, "behind", 1).await;
    eventually("the quick one is acknowledged", || async {
        info(&world)
            .await
            .is_some_and(|info| info.num_ack_pending <= 1)
    })
    .await;
    // real time: an ack that must not arrive
    tokio::time::sleep(Duration::from_millis(500)).await;
    let pending = info(&world).await.unwrap().num_ack_pending;
    assert_eq!(pending, 1, "the new one is not answered: its handler runs");
    app.open.close();
    eventually("all is acknowledged", || async {
        info(&world)
            .await
            .is_some_and(|info| info.num_ack_pending == 0)
    })
    .await;
    running.stop().await.unwrap();
}

/// A replay covers the events that existed at its start: when other events have their sequences, it fails and reports
/// it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_of_lost_events_fails_and_new_events_have_effects() {
    let (world, past) = Past::world::<Sqlite>().await;
    let app = App::default();
    let running = world.run(app.worker(&world, App::subscriber(NAME)));
    publish(&world, "before", 50).await;
    have_effects(&app, "before", 50).await;
    past.keep(&world.nats).await;
    publish(&world, "lost", 50).await;
    have_effects(&app, "lost", 50).await;
    let request = everything().rate_limit(Rate::per_second(20));
    let replay = world.replay(NAME, &request).await;
    app.noted.reach(110).await;
    past.put_back_stream(&world.nats, "EVENTS").await;
    publish(&world, "new", 100).await;
    have_effects(&app, "new", 100).await;
    eventually("the replay has ended", || async {
        let found = world.replays().find(replay.id).await;
        found.is_ok_and(|found| found.replay.state.is_final())
    })
    .await;
    let ended = world.replay_status(replay.id).await.replay;
    assert_eq!(ended.state, ReplayState::Failed, "{ended:?}");
    let reason = ended.reason.unwrap_or_default();
    assert!(reason.contains("older copy"), "{reason}");
    running.stop().await.unwrap();
    let mut new = app.noted.all();
    new.retain(|note| note.starts_with("new"));
    assert_eq!(new.len(), 100, "none of them is part of the replay");
}
