//! A header with a carriage return in its value ends the task of the client that receives it. The library then
//! continues with a new client.

use std::time::Duration;

use async_nats::jetstream;
use sqlx::Sqlite;
use tidings::{
    CircuitBreaker, Context, EventSubscriber, Failure, StartFrom, Worker,
    dead_letters::{DeadLetterSelection, DeadLetters},
    subscribers::Subscribers,
    verify::Verify,
};

use crate::{
    both,
    support::{Counted, Database, Noted, World, eventually, log, within},
};

both!(
    a_relay_continues_with_another_client,
    a_read_leaves_no_consumer_behind,
);

/// Ends the client that receives it.
const BAD: &[u8] = b"a: b\rc";

fn counted(count: i64) -> Counted {
    Counted {
        key: "one".to_owned(),
        count,
    }
}

async fn commit<DB: Database>(world: &World<DB>, count: i64) {
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish(&counted(count)).unwrap();
    tx.commit().await.unwrap();
    eventually("everything is published", || async {
        world.outbox.status().await.unwrap().backlog == 0
    })
    .await;
}

async fn a_relay_continues_with_another_client<DB: Database>(world: World<DB>) {
    log::listen();
    let relay = world.relay();
    commit(&world, 1).await;
    // The running relay receives each of these through a subscription.
    world.publish_raw(b"tidings.wake.tidings", BAD).await;
    commit(&world, 2).await;
    world
        .publish_raw(b"tidings.status.relay.tidings", BAD)
        .await;
    commit(&world, 3).await;
    eventually("it can be asked how it does", || async {
        let relays = world.outbox.relays(&world.bus).await;
        relays.is_ok_and(|relays| relays.len() == 1)
    })
    .await;
    relay.stop().await.unwrap();
    let verify = Verify::new(&world.bus, &world.outbox).payloads();
    let found = within("it is verified", verify.run()).await.unwrap();
    assert_eq!(found.streams[0].ok, 3, "{found:?}");
    assert!(!log::said("NATS client stopped").is_empty());
}

async fn a_read_leaves_no_consumer_behind<DB: Database>(world: World<DB>) {
    let relay = world.relay();
    commit(&world, 1).await;
    relay.stop().await.unwrap();
    for _ in 0..3 {
        let verify = Verify::new(&world.bus, &world.outbox).payloads();
        within("it is verified", verify.run()).await.unwrap();
        let mut reader = world
            .bus
            .read("EVENTS", &[], StartFrom::Beginning)
            .await
            .unwrap();
        within("the event", reader.next()).await.unwrap();
    }
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let stream = jetstream::new(client).get_stream("EVENTS").await.unwrap();
    eventually("no consumer is left", || async {
        let info = stream.get_info().await;
        info.is_ok_and(|info| info.state.consumer_count == 0)
    })
    .await;
}

async fn count(counted: Counted, cx: Context<Noted>) -> Result<(), Failure> {
    cx.state().note(counted.count.to_string());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_continues_after_a_bad_message_on_any_subscription() {
    let world = World::<Sqlite>::start().await;
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable("counting")
        .on(count)
        .circuit_breaker(CircuitBreaker::off());
    let worker = Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber);
    let worker = world.run(worker);
    world.publish([&counted(1)]).await;
    for subject in [
        b"tidings.status".as_slice(),
        b"tidings.status.counting",
        b"tidings.retry.counting.count.raised",
        b"count.raised",
    ] {
        world.publish_raw(subject, BAD).await;
    }
    world.publish([&counted(2)]).await;
    eventually("both are handled", || async {
        let mut all = noted.all();
        all.sort();
        all.dedup();
        all == ["1", "2"]
    })
    .await;
    eventually("what is no event is a dead letter", || async {
        !world.dead_letters().await.0.is_empty()
    })
    .await;
    eventually("it can be asked how it does", || async {
        let found = Subscribers::new(&world.bus).find("counting").await;
        found.is_ok_and(|state| state.instances.len() == 1)
    })
    .await;
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_read_past_a_bad_message() {
    let world = World::<Sqlite>::start().await;
    for _ in 0..3 {
        world
            .publish_raw(b"dead-letter.counting.count.raised", BAD)
            .await;
    }
    let dead_letters = DeadLetters::new(&world.bus);
    let reader = dead_letters.read(DeadLetterSelection::default()).await;
    let mut reader = reader.unwrap();
    let mut found = 0;
    while let Some(letter) = within("the next one", reader.next()).await.unwrap() {
        assert!(letter.sequence > 0);
        found += 1;
    }
    assert_eq!(found, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_bus_stays_closed() {
    let world = World::<Sqlite>::start().await;
    let bus = world.bus.another().await.unwrap();
    bus.close().await.unwrap();
    tokio::time::timeout(
        Duration::from_secs(4),
        bus.read("EVENTS", &[], StartFrom::New),
    )
    .await
    .expect("no other client is waited for")
    .err()
    .expect("it is closed");
}
