//! A republished event is listed once, whichever way it is searched.

use async_nats::jetstream;
use chrono::{TimeDelta, Utc};
use sqlx::Sqlite;
use tidings::{
    EventPublisher,
    trace::{OutboxTrace, TraceTarget},
    verify::Verify,
};

use crate::{
    both,
    support::{Database, Past, User, World, eventually},
};

both!(a_row_that_is_older_than_its_message_is_found,);

async fn repair<DB: Database>(world: &World<DB>) -> u64 {
    let repair = Verify::new(&world.bus, &world.outbox).repair().await;
    repair.unwrap().events()
}

/// A search by key reads outbox and stream from a start time, and the row of a republished event is older.
async fn a_row_that_is_older_than_its_message_is_found<DB: Database>(world: World<DB>) {
    let id = world.commit("ada").await;
    world.publish_all().await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let stream = jetstream::new(client).get_stream("EVENTS").await.unwrap();
    stream.delete_message(1).await.unwrap();
    let since = Utc::now() + TimeDelta::milliseconds(1);
    eventually("the time is over", || async { Utc::now() > since }).await;
    assert_eq!(repair(&world).await, 1);
    let direct = EventPublisher::new(&world.bus)
        .publish(&User::new("ada"))
        .await
        .unwrap();
    let trace = world.trace().since(since);
    let found = trace
        .run(&TraceTarget::Key("ada".to_owned()))
        .await
        .unwrap();
    let event = |id| found.events.iter().find(|event| event.event == id).unwrap();
    let ours = event(id);
    assert!(
        matches!(ours.outbox, OutboxTrace::Relayed { row: 1, .. }),
        "{ours:?}"
    );
    assert_eq!((ours.stored[0].sequence, ours.stored.len()), (2, 1));
    let OutboxTrace::Absent { why } = &event(direct).outbox else {
        panic!("{found:?}")
    };
    assert!(why.contains("published without the outbox"), "{why}");
}

/// In an older copy of the store, sequences are free again, and two batches were confirmed with the same one.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_republished_to_its_position_is_listed_once() {
    let (world, past) = Past::world::<Sqlite>().await;
    world.commit("ada").await;
    world.publish_all().await;
    past.keep(&world.nats).await;
    let id = world.commit("bob").await;
    world.publish_all().await;
    past.put_back(&world.nats).await;
    assert_eq!(repair(&world).await, 1);
    let event = world.traced(id).await;
    assert_eq!(event.stored.len(), 1, "{event:?}");
    assert_eq!(event.stored[0].sequence, 2);
    let epochs: Vec<i64> = event.batches.iter().map(|batch| batch.epoch).collect();
    assert_eq!(epochs, [2, 0], "the relay's, and the repair's");
    Sqlite::execute(world.outbox.pool(), "delete from tidings_outbox").await;
    let event = world.traced(id).await;
    let OutboxTrace::Absent { why } = &event.outbox else {
        panic!("{event:?}")
    };
    assert!(why.contains("has freed its row"), "{why}");
}
