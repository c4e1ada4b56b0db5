//! P8: `verify` reports whether a stream holds the confirmed events, and names the missing ones.

use std::{future::poll_fn, task::Poll};

use async_nats::{HeaderMap, jetstream};
use sqlx::{Postgres, postgres::PgPoolOptions};
use tidings::{
    Outbox,
    outbox::StreamState,
    republish::Republish,
    verify::{Difference, DifferenceKind, Verification, Verify},
};

use crate::{
    both,
    support::{Counted, Database, Past, World, events_stream, eventually},
};

both!(
    a_complete_stream_is_ok,
    deleted_modified_and_duplicate_events_are_named,
    a_recreated_stream_misses_the_events_of_the_old_one,
    a_deleted_stream_misses_everything,
    events_removed_by_a_limit_are_not_missing,
    a_purge_of_a_stream_without_limits_is_a_repairable_loss,
);

const EVENTS: u64 = 60;

/// Commits events of three keys, and runs a relay until they are published.
async fn publish<DB: Database>(world: &World<DB>, from: i64) {
    let mut tx = world.outbox.begin().await.unwrap();
    for count in from..from + EVENTS as i64 {
        let key = format!("key-{}", count % 3);
        tx.publish(&Counted { key, count }).unwrap();
    }
    tx.commit().await.unwrap();
    let relay = world.relay();
    eventually("everything is published", || async {
        world.outbox.status().await.unwrap().backlog == 0
    })
    .await;
    relay.stop().await.unwrap();
}

async fn verify<DB: Database>(world: &World<DB>) -> Verification {
    let verify = Verify::new(&world.bus, &world.outbox);
    let (quickly, all) = (
        verify.run().await.unwrap(),
        verify.payloads().run().await.unwrap(),
    );
    assert_eq!(
        kinds(&quickly.streams[0].differences).len(),
        kinds(&all.streams[0].differences).len()
    );
    assert_eq!(quickly.streams.len(), 1);
    all
}

fn kinds(differences: &[Difference]) -> Vec<(DifferenceKind, Option<u64>)> {
    let told = differences.iter().map(|told| (told.kind, told.sequence));
    told.collect()
}

async fn a_complete_stream_is_ok<DB: Database>(world: World<DB>) {
    publish(&world, 0).await;
    let found = verify(&world).await;
    let stream = &found.streams[0];
    assert_eq!((stream.ok, stream.foreign), (EVENTS, 0), "{found:?}");
    assert!(found.is_ok());
}

async fn deleted_modified_and_duplicate_events_are_named<DB: Database>(world: World<DB>) {
    publish(&world, 0).await;
    let context = world.jetstream().await;
    let stream = context.get_stream("EVENTS").await.unwrap();
    let again = |message: jetstream::message::StreamMessage, payload: &'static str| {
        let context = context.clone();
        async move {
            let mut headers = HeaderMap::new();
            for (name, values) in message.headers.iter() {
                if !name.to_string().starts_with("Nats-") {
                    headers.insert(name.clone(), values[0].clone());
                }
            }
            let payload = match payload {
                "" => message.payload,
                other => other.into(),
            };
            let stored = context.publish_with_headers(message.subject, headers, payload);
            stored.await.unwrap().await.unwrap();
        }
    };
    stream.delete_message(7).await.unwrap();
    again(stream.get_raw_message(8).await.unwrap(), "").await;
    let last = stream.get_raw_message(60).await.unwrap();
    stream.delete_message(60).await.unwrap();
    again(last, "{\"key\": \"another\"}").await;
    let found = verify(&world).await;
    let stream = &found.streams[0];
    assert_eq!(
        kinds(&stream.differences),
        [
            (DifferenceKind::Modified, Some(62)),
            (DifferenceKind::Duplicate, Some(61)),
            (DifferenceKind::Missing, None),
        ],
        "{found:?}"
    );
    let missing = &stream.differences[2];
    assert_eq!(missing.key.as_deref(), Some("key-0"));
    assert_eq!(missing.detail, Some("it was deleted"));
    assert_eq!(stream.ok, EVENTS - 2);
    assert!(!found.is_ok());
}

async fn a_recreated_stream_misses_the_events_of_the_old_one<DB: Database>(world: World<DB>) {
    publish(&world, 0).await;
    let context = world.jetstream().await;
    context.delete_stream("EVENTS").await.unwrap();
    world.bus.apply_stream(&events_stream()).await.unwrap();
    let found = verify(&world).await;
    let stream = &found.streams[0];
    assert!(
        matches!(stream.state, StreamState::Recreated { .. }),
        "{found:?}"
    );
    assert_eq!((stream.ok, stream.missing), (0, EVENTS));
}

async fn a_deleted_stream_misses_everything<DB: Database>(world: World<DB>) {
    publish(&world, 0).await;
    world
        .jetstream()
        .await
        .delete_stream("EVENTS")
        .await
        .unwrap();
    let found = verify(&world).await;
    let stream = &found.streams[0];
    assert_eq!(
        (&stream.state, stream.missing),
        (&StreamState::Missing, EVENTS)
    );
}

async fn events_removed_by_a_limit_are_not_missing<DB: Database>(world: World<DB>) {
    publish(&world, 0).await;
    let context = world.jetstream().await;
    let mut stream = context.get_stream("EVENTS").await.unwrap();
    let mut config = stream.info().await.unwrap().config.clone();
    config.max_messages = 40;
    config.discard = jetstream::stream::DiscardPolicy::Old;
    context.update_stream(config).await.unwrap();
    let found = verify(&world).await;
    let told = &found.streams[0];
    assert_eq!((told.ok, told.missing, told.expired), (EVENTS - 20, 0, 20));
    assert!(found.is_ok(), "{found:?}");
    // A limit removes only from the start: this message is missing, although the limit has removed the first ones of
    // its batch.
    stream.delete_message(31).await.unwrap();
    let found = verify(&world).await;
    let told = &found.streams[0];
    assert_eq!((told.missing, told.expired), (1, 20), "{found:?}");
    assert_eq!(told.differences[0].detail, Some("it was deleted"));
}

async fn a_purge_of_a_stream_without_limits_is_a_repairable_loss<DB: Database>(world: World<DB>) {
    publish(&world, 0).await;
    let stream = world.jetstream().await.get_stream("EVENTS").await.unwrap();
    stream.delete_message(41).await.unwrap();
    stream.purge().sequence(21).await.unwrap();
    let found = verify(&world).await;
    let told = &found.streams[0];
    assert_eq!((told.missing, told.expired), (21, 0), "{found:?}");
    let details = told.differences.iter().map(|told| told.detail.unwrap());
    let purged = details.filter(|detail| detail.contains("purged")).count();
    assert_eq!(purged, 20, "{found:?}");
    stream.purge().await.unwrap();
    let missing = verify(&world).await.streams[0].missing;
    assert_eq!(missing, EVENTS);
    let repair = Verify::new(&world.bus, &world.outbox).repair().await;
    assert_eq!(repair.unwrap().events(), EVENTS);
    let found = verify(&world).await;
    assert_eq!(found.streams[0].ok, EVENTS, "{found:?}");
    assert!(found.is_ok(), "{found:?}");
}

/// Replaces the folder of the store by an earlier copy.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_is_not_taken_for_the_confirmed_stream() {
    let (world, past) = Past::world::<sqlx::Sqlite>().await;
    publish(&world, 0).await;
    past.keep(&world.nats).await;
    publish(&world, EVENTS as i64).await;
    past.put_back(&world.nats).await;
    let found = verify(&world).await;
    let stream = &found.streams[0];
    let standing = StreamState::Truncated {
        known: 2 * EVENTS,
        now: EVENTS,
    };
    assert_eq!(stream.state, standing);
    assert_eq!((stream.ok, stream.missing), (EVENTS, EVENTS));
}

/// The number of entries read from the id index of the log, including those that connections have not reported yet.
async fn entries_read(world: &World<Postgres>) -> i64 {
    let pool = world.outbox.pool();
    let mut held = Vec::new();
    for _ in 0..pool.size() {
        held.push(pool.acquire().await.unwrap());
    }
    for connection in &mut held {
        let report = sqlx::query("select pg_stat_force_next_flush()");
        report.execute(&mut **connection).await.unwrap();
    }
    drop(held);
    let read = "select sum(idx_tup_read)::bigint from pg_stat_user_indexes
        where indexrelname ~ '^outbox_[0-9]_id_idx$'";
    Postgres::number(pool, read).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_page_of_a_log_without_statistics_reads_one_page() {
    const ROWS: i64 = 20_000;
    // The last rows have more bytes than a page of whole rows may have.
    const LARGE: i64 = 300;
    let world = World::<Postgres>::start().await;
    let commit = format!(
        "select tidings.enqueue('count.raised', 1, 'one',
            json_build_object('text', case when n > {ROWS} - {LARGE} then repeat('x', 40000) end))
         from generate_series(1, {ROWS}) as n"
    );
    Postgres::execute(world.outbox.pool(), &commit).await;
    let relay = world.relay();
    eventually("everything is published", || async {
        world.outbox.status().await.unwrap().backlog == 0
    })
    .await;
    relay.stop().await.unwrap();

    let before = entries_read(&world).await;
    let found = Verify::new(&world.bus, &world.outbox).run().await.unwrap();
    assert_eq!(found.streams[0].ok, ROWS as u64);
    eventually("it is reported", || async {
        entries_read(&world).await - before >= ROWS
    })
    .await;
    let read = entries_read(&world).await - before;
    assert!(read < ROWS + ROWS / 2, "{read} for {ROWS} rows");

    // Missing rows are not read twice, except the 7,500 rows that are read ahead before they are known to be missing.
    world
        .jetstream()
        .await
        .delete_stream("EVENTS")
        .await
        .unwrap();
    world.bus.apply_stream(&events_stream()).await.unwrap();
    let before = entries_read(&world).await;
    let republish = Republish::new(&world.bus, &world.outbox);
    assert_eq!(republish.run().await.unwrap().events(), ROWS as u64);
    eventually("it is reported", || async {
        entries_read(&world).await - before >= ROWS
    })
    .await;
    let read = entries_read(&world).await - before;
    assert!(read < ROWS + ROWS / 2, "{read} for {ROWS} rows");
}

#[tokio::test]
async fn a_dropped_verify_leaves_no_transaction_in_the_pool() {
    let world = World::<Postgres>::start().await;
    publish(&world, 0).await;
    let options = world.outbox.pool().connect_options();
    let pool = PgPoolOptions::new().max_connections(1);
    let pool = pool.connect_with((*options).clone()).await.unwrap();
    let outbox = Outbox::<Postgres>::new(pool.clone());
    let verify = Verify::new(&world.bus, &outbox);
    // After one of these numbers of polls a page is just beginning. The next page would end a transaction that it left
    // open.
    for polls in 1..40 {
        let mut left = polls;
        let mut running = Box::pin(verify.run());
        poll_fn(|cx| match left {
            0 => Poll::Ready(()),
            _ => {
                left -= 1;
                running.as_mut().poll(cx).map(drop)
            }
        })
        .await;
        drop(running);
        let setting = sqlx::query_scalar::<_, String>("show enable_sort");
        let setting = setting.fetch_one(&pool).await.unwrap();
        assert_eq!(setting, "on", "a transaction is open after {polls} polls");
    }
}
