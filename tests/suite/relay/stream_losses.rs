//! P2, P9: when a stream is not in the state in which the relay left it, the loss is reported until an operator has
//! acknowledged or repaired it; new events continue to flow, and none is skipped or repeated.

use std::time::Duration;

use sqlx::{Postgres, Sqlite};
use tidings::{
    EventPublisher,
    outbox::{Loss, StreamState},
    testing::failpoint::{self, Point},
    verify::Verify,
};

use crate::{
    both,
    support::{
        Counted, Database, Past, Stored, User, World, events_stream, eventually, log, within,
    },
};

both!(
    a_recreated_stream_is_reported_until_it_is_acknowledged,
    a_deleted_stream_is_reported,
);

const EVENTS: i64 = 30;
const WINDOW: Duration = Duration::from_millis(100);

async fn commit<DB: Database>(world: &World<DB>, from: i64) {
    let mut tx = world.outbox.begin().await.unwrap();
    for count in from..from + EVENTS {
        let key = format!("key-{}", count % 3);
        tx.publish(&Counted { key, count }).unwrap();
    }
    tx.commit().await.unwrap();
}

async fn losses<DB: Database>(world: &World<DB>) -> Vec<Loss> {
    world.outbox.status().await.unwrap().losses
}

async fn is_told<DB: Database>(world: &World<DB>) -> StreamState {
    eventually("the loss is told", || async {
        !losses(world).await.is_empty()
    })
    .await;
    losses(world).await.remove(0).state
}

async fn counts<DB: Database>(world: &World<DB>) -> Vec<i64> {
    let stored = world.stored().await;
    let count = |message: &Stored| message.json()["count"].as_i64().unwrap();
    let mut counts: Vec<i64> = stored.0.iter().map(count).collect();
    counts.sort_unstable();
    counts
}

async fn a_recreated_stream_is_reported_until_it_is_acknowledged<DB: Database>(world: World<DB>) {
    log::listen();
    let relay = world.relay();
    commit(&world, 0).await;
    world.is_settled().await;
    assert_eq!(losses(&world).await, []);
    world
        .jetstream()
        .await
        .delete_stream("EVENTS")
        .await
        .unwrap();
    world.forget_ids_after(WINDOW).await;
    commit(&world, EVENTS).await;
    world.is_settled().await;
    assert!(matches!(
        is_told(&world).await,
        StreamState::Recreated { .. }
    ));
    // New events were published, although the first batch into the new stream was confirmed before the loss was
    // noticed.
    assert_eq!(
        counts(&world).await,
        (EVENTS..2 * EVENTS).collect::<Vec<_>>()
    );
    let said = log::said("stream loss detected");
    assert!(
        said[0].contains("ERROR") && said[0].contains("tidings verify --repair"),
        "{said:?}"
    );
    relay.stop().await.unwrap();

    let relay = world.relay();
    commit(&world, 2 * EVENTS).await;
    world.is_settled().await;
    assert_eq!(losses(&world).await.len(), 1, "a restart forgets nothing");
    let verified = Verify::new(&world.bus, &world.outbox).run().await.unwrap();
    let stream = &verified.streams[0];
    assert!(
        matches!(stream.state, StreamState::Recreated { .. }),
        "{verified:?}"
    );

    let accepted = world.outbox.acknowledge_loss("EVENTS").await.unwrap();
    assert!(accepted.is_some());
    assert_eq!(losses(&world).await, []);
    assert_eq!(world.outbox.acknowledge_loss("EVENTS").await.unwrap(), None);
    relay.stop().await.unwrap();
    let relay = world.relay();
    commit(&world, 3 * EVENTS).await;
    world.is_settled().await;
    assert_eq!(losses(&world).await, []);
    relay.stop().await.unwrap();
    assert_eq!(
        counts(&world).await,
        (EVENTS..4 * EVENTS).collect::<Vec<_>>()
    );
}

async fn a_deleted_stream_is_reported<DB: Database>(world: World<DB>) {
    let relay = world.relay();
    commit(&world, 0).await;
    world.is_settled().await;
    relay.stop().await.unwrap();
    world
        .jetstream()
        .await
        .delete_stream("EVENTS")
        .await
        .unwrap();
    let relay = world.relay();
    assert_eq!(is_told(&world).await, StreamState::Missing);
    world.outbox.acknowledge_loss("EVENTS").await.unwrap();
    relay.stop().await.unwrap();
    let relay = world.relay();
    world.bus.apply_stream(&events_stream()).await.unwrap();
    commit(&world, EVENTS).await;
    world.is_settled().await;
    relay.stop().await.unwrap();
    // A new stream is another loss: that one was not acknowledged.
    let relay = world.relay();
    assert!(matches!(
        is_told(&world).await,
        StreamState::Recreated { .. }
    ));
    relay.stop().await.unwrap();
}

/// The relay is idle, and no event is written: it notices the loss from its connection alone.
async fn an_older_copy_of_the_store_is_reported<DB: Database>() {
    let (world, past) = Past::world::<DB>().await;
    world.forget_ids_after(WINDOW).await;
    let relay = world.relay();
    commit(&world, 0).await;
    world.is_settled().await;
    past.keep(&world.nats).await;
    commit(&world, EVENTS).await;
    world.is_settled().await;
    // real time: the relay looks at its streams a second after it began, and then once a minute
    tokio::time::sleep(Duration::from_secs(2)).await;
    past.put_back(&world.nats).await;
    let told = StreamState::Truncated {
        known: 2 * EVENTS as u64,
        now: EVENTS as u64,
    };
    assert_eq!(is_told(&world).await, told);
    commit(&world, 2 * EVENTS).await;
    world.is_settled().await;
    relay.stop().await.unwrap();
    let relay = world.relay();
    commit(&world, 3 * EVENTS).await;
    world.is_settled().await;
    relay.stop().await.unwrap();
    assert_eq!(losses(&world).await.len(), 1);
    let expected: Vec<i64> = (0..EVENTS).chain(2 * EVENTS..4 * EVENTS).collect();
    assert_eq!(
        counts(&world).await,
        expected,
        "nothing new is skipped or repeated"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_store_is_reported_on_postgres() {
    an_older_copy_of_the_store_is_reported::<Postgres>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_store_is_reported_on_sqlite() {
    an_older_copy_of_the_store_is_reported::<Sqlite>().await;
}

/// The end of the stream lies beyond the last confirmed sequence: only the last confirmed event shows the loss.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_with_foreign_writes_is_reported() {
    let (world, past) = Past::world::<Sqlite>().await;
    past.keep(&world.nats).await;
    let relay = world.relay();
    commit(&world, 0).await;
    world.is_settled().await;
    relay.stop().await.unwrap();
    past.put_back(&world.nats).await;
    let publisher = EventPublisher::new(&world.bus);
    for n in 0..=EVENTS {
        publisher.publish(&User::new(&n.to_string())).await.unwrap();
    }
    let relay = world.relay();
    let told = is_told(&world).await;
    assert!(
        matches!(told, StreamState::Diverged { sequence, .. } if sequence == EVENTS as u64),
        "{told}"
    );
    relay.stop().await.unwrap();
}

/// The same with messages without ids: none of them is the confirmed event.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_with_writes_without_ids_is_reported() {
    let (world, past) = Past::world::<Sqlite>().await;
    past.keep(&world.nats).await;
    let relay = world.relay();
    commit(&world, 0).await;
    world.is_settled().await;
    relay.stop().await.unwrap();
    past.put_back(&world.nats).await;
    let jetstream = world.jetstream().await;
    for _ in 0..=EVENTS {
        let stored = jetstream
            .publish("user.created", "{}".into())
            .await
            .unwrap();
        stored.await.unwrap();
    }
    let found = Verify::new(&world.bus, &world.outbox).run().await.unwrap();
    let is_overwritten = |standing: &StreamState| matches!(standing, StreamState::Diverged { sequence, .. } if *sequence == EVENTS as u64);
    assert!(is_overwritten(&found.streams[0].state), "{found:?}");
    let relay = world.relay();
    let told = is_told(&world).await;
    assert!(is_overwritten(&told), "{told}");
    relay.stop().await.unwrap();
}

/// A relay that did not know of the loss has stored events before the recorded position.
#[tokio::test(flavor = "multi_thread")]
async fn events_stored_before_the_loss_was_found_are_stored_once() {
    let world = World::<Sqlite>::start().await;
    world.forget_ids_after(WINDOW).await;
    let relay = world.relay();
    commit(&world, 0).await;
    world.is_settled().await;
    relay.stop().await.unwrap();
    let relay = world.new_relay();
    let armed = failpoint::arm(relay.owner(), Point::Answered, 1);
    let relay = world.run_relay(relay);
    commit(&world, EVENTS).await;
    within("the answer", armed.reached()).await;
    relay.kill().await;
    let position =
        "update tidings_relay set streams = json_set(streams, '$.EVENTS.sequence', 1000)";
    Sqlite::execute(world.outbox.pool(), position).await;
    // real time: until the server has forgotten the ids
    tokio::time::sleep(WINDOW + Duration::from_millis(50)).await;
    let relay = world.relay();
    world.is_settled().await;
    assert!(matches!(
        is_told(&world).await,
        StreamState::Truncated { known: 1000, .. }
    ));
    relay.stop().await.unwrap();
    assert_eq!(counts(&world).await, (0..2 * EVENTS).collect::<Vec<_>>());
}
