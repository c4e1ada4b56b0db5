//! P8: republishing what a stream has lost: exactly the missing events, in order, once, unchanged.

use std::time::Duration;

use async_nats::jetstream;
use sqlx::{Postgres, Sqlite};
use tidings::{
    Envelope, EventId, Rate, StreamSpec,
    outbox::{ParkedSelection, RepublishError, StreamState},
    republish::Republish,
    verify::{Repair, Verification, Verify},
};

use crate::{
    both,
    support::{Counted, Database, Past, Stored, World, events_stream, eventually, within},
};

both!(
    deleted_events_are_republished_unchanged_within_the_window,
    a_repair_of_a_recreated_stream_ends_the_loss,
    an_event_republished_behind_later_ones_is_only_late,
    a_discarded_event_is_not_republished,
    only_selected_missing_events_are_republished,
    rows_are_copied_to_another_stream_under_a_prefix,
    a_forced_event_is_stored_twice,
    a_name_without_a_stream_is_reported,
    scattered_missing_events_are_republished_in_order,
    a_republisher_without_the_lease_publishes_nothing,
    an_unreadable_row_blocks_no_other_republication,
);

pub const EVENTS: i64 = 60;

/// Commits events of three keys, and runs a relay until they are published.
pub async fn publish<DB: Database>(world: &World<DB>, from: i64) {
    let mut tx = world.outbox.begin().await.unwrap();
    for count in from..from + EVENTS {
        let key = format!("key-{}", count % 3);
        tx.publish(&Counted { key, count }).unwrap();
    }
    tx.commit().await.unwrap();
    relay(world).await;
}

async fn publish_one<DB: Database>(world: &World<DB>, count: i64) {
    let mut tx = world.outbox.begin().await.unwrap();
    let key = format!("key-{count}");
    tx.publish(&Counted { key, count }).unwrap();
    tx.commit().await.unwrap();
}

async fn relay<DB: Database>(world: &World<DB>) {
    let relay = world.relay();
    eventually("everything is published", || async {
        let status = world.outbox.status().await;
        status.is_ok_and(|status| status.backlog == status.returning)
    })
    .await;
    relay.stop().await.unwrap();
}

pub async fn delete<DB: Database>(world: &World<DB>, sequences: impl IntoIterator<Item = u64>) {
    let jetstream = world.jetstream().await;
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    for sequence in sequences {
        stream.delete_message(sequence).await.unwrap();
    }
}

pub async fn repair<DB: Database>(world: &World<DB>) -> Repair {
    let verify = Verify::new(&world.bus, &world.outbox);
    verify.repair().await.unwrap()
}

async fn verify<DB: Database>(world: &World<DB>) -> Verification {
    let verify = Verify::new(&world.bus, &world.outbox).payloads();
    verify.run().await.unwrap()
}

/// The counts of the events of a stream, in order.
async fn counts<DB: Database>(world: &World<DB>, stream: &str) -> Vec<i64> {
    let stored = crate::support::Stream::read(&world.nats.url(), stream).await;
    let count = |message: &Stored| message.json()["count"].as_i64().unwrap();
    stored.0.iter().map(count).collect()
}

async fn ledger_says<DB: Database>(world: &World<DB>, way: &str) -> i64 {
    let ledger = DB::table("ledger");
    let sql = format!(
        "select cast(coalesce(sum(events), 0) as bigint) from {ledger} where kind = '{way}'"
    );
    DB::number(world.outbox.pool(), &sql).await
}

async fn deleted_events_are_republished_unchanged_within_the_window<DB: Database>(
    world: World<DB>,
) {
    publish(&world, 0).await;
    let before = world.stored().await;
    // Many events of one batch, and a single one; the server remembers the ids of all.
    delete(&world, (30..50).chain([60])).await;
    let repair = repair(&world).await;
    assert_eq!(
        (repair.events(), repair.out_of_reach),
        (21, 0),
        "{repair:?}"
    );
    assert!(repair.is_whole());
    assert_eq!(repair.found.streams[0].missing, 21);
    let after = world.stored().await;
    assert_eq!((after.len(), after.duplicated()), (EVENTS as usize, 0));
    for message in &after.0[39..] {
        let id = message.header("ce-id");
        let original = before.0.iter().find(|other| other.header("ce-id") == id);
        let original = original.expect("an event of before");
        assert_eq!(message.payload, original.payload);
        assert_eq!(message.subject, original.subject);
        for header in ["ce-type", "ce-time", "ce-source", "ce-partitionkey"] {
            assert_eq!(message.header(header), original.header(header));
        }
    }
    let found = verify(&world).await;
    assert!(found.is_ok(), "{found:?}");
    assert_eq!(found.streams[0].ok, EVENTS as u64);
    assert_eq!(ledger_says(&world, "republished").await, 21);
    let again = self::repair(&world).await;
    assert_eq!(again.events(), 0);
}

async fn a_repair_of_a_recreated_stream_ends_the_loss<DB: Database>(world: World<DB>) {
    publish(&world, 0).await;
    let jetstream = world.jetstream().await;
    jetstream.delete_stream("EVENTS").await.unwrap();
    world.bus.apply_stream(&events_stream()).await.unwrap();
    let repair = repair(&world).await;
    assert_eq!(repair.events(), EVENTS as u64);
    assert!(matches!(
        repair.settled[0].state,
        StreamState::Recreated { .. }
    ));
    assert_eq!(
        counts(&world, "EVENTS").await,
        (0..EVENTS).collect::<Vec<_>>()
    );
    // Only now the relay looks at the stream, and finds that the loss was repaired before.
    publish(&world, EVENTS).await;
    assert_eq!(world.outbox.losses().await.unwrap(), []);
    let found = verify(&world).await;
    assert!(found.is_ok(), "{found:?}");
    assert_eq!(found.streams[0].ok, 2 * EVENTS as u64);
    assert_eq!(
        counts(&world, "EVENTS").await,
        (0..2 * EVENTS).collect::<Vec<_>>()
    );
}

async fn an_event_republished_behind_later_ones_is_only_late<DB: Database>(world: World<DB>) {
    publish(&world, 0).await;
    let jetstream = world.jetstream().await;
    jetstream.delete_stream("EVENTS").await.unwrap();
    world.bus.apply_stream(&events_stream()).await.unwrap();
    publish(&world, EVENTS).await;
    let repair = repair(&world).await;
    assert_eq!(
        (repair.events(), repair.late),
        (EVENTS as u64, EVENTS as u64)
    );
    let found = verify(&world).await;
    assert!(found.is_ok(), "{found:?}");
    let stream = &found.streams[0];
    assert_eq!(
        (stream.late, stream.out_of_order),
        (EVENTS as u64, 0),
        "{found:?}"
    );
    assert_eq!(stream.ok, 2 * EVENTS as u64);
}

async fn a_discarded_event_is_not_republished<DB: Database>(world: World<DB>) {
    for count in 0..3 {
        publish_one(&world, count).await;
    }
    // A row that is not a valid event, in the middle of the batch.
    let set = |what: &str| format!("update {} set {what} where id = 2", DB::table("outbox"));
    DB::execute(world.outbox.pool(), &set("headers = '[]'")).await;
    relay(&world).await;
    let dead_lettered = world
        .outbox
        .discard(&ParkedSelection::All, 10)
        .await
        .unwrap();
    assert_eq!(dead_lettered.len(), 1);
    let found = verify(&world).await;
    assert_eq!(
        (found.streams[0].missing, found.streams[0].unconfirmed),
        (0, 1)
    );
    assert_eq!(repair(&world).await.events(), 0);
    for name in ["count.raised", "nobody.takes.this"] {
        let named = set(&format!("name = '{name}'"));
        DB::execute(world.outbox.pool(), &named).await;
        let republish = Republish::new(&world.bus, &world.outbox);
        let done = republish.run().await.unwrap();
        assert_eq!((done.rows, done.unconfirmed, done.events()), (3, 1, 0));
    }
}

async fn only_selected_missing_events_are_republished<DB: Database>(world: World<DB>) {
    publish(&world, 0).await;
    delete(&world, 1..60).await;
    let named = Republish::new(&world.bus, &world.outbox)
        .from_row(10)
        .to_row(21)
        .name("count.raised")
        .key("key-0")
        .rate_limit(Rate::per_second(1000));
    let dry = named.dry_run().await.unwrap();
    assert_eq!(
        (dry.rows, dry.wanted, dry.first, dry.last),
        (4, 4, Some(10), Some(19))
    );
    // An upper bound: a dry run does not check whether later events of the key are stored.
    assert_eq!(dry.late, 4, "{dry:?}");
    assert_eq!(world.stored().await.len(), 1);
    let done = named.run().await.unwrap();
    assert_eq!(done.events(), 4);
    assert_eq!(counts(&world, "EVENTS").await, [59, 9, 12, 15, 18]);
    assert_eq!(named.run().await.unwrap().stored, 4);
    assert_eq!(world.stored().await.len(), 5);
    let now = chrono::Utc::now();
    let later = Republish::new(&world.bus, &world.outbox).since(now);
    assert_eq!(later.run().await.unwrap().rows, 0);
    let before = Republish::new(&world.bus, &world.outbox).until(now);
    let before = before.name("user.created");
    assert_eq!(before.dry_run().await.unwrap().rows, 0);
}

async fn rows_are_copied_to_another_stream_under_a_prefix<DB: Database>(world: World<DB>) {
    publish(&world, 0).await;
    let subjects = ["recovery.>".parse().unwrap()];
    let spec = StreamSpec::new("RECOVERY", subjects).unwrap();
    world.bus.apply_stream(&spec).await.unwrap();
    let into = || {
        let republish = Republish::new(&world.bus, &world.outbox);
        republish.into_prefix("recovery").from_row(11).to_row(30)
    };
    let done = into().run().await.unwrap();
    assert_eq!(done.republished.get("RECOVERY"), Some(&20), "{done:?}");
    assert_eq!(
        counts(&world, "RECOVERY").await,
        (10..30).collect::<Vec<_>>()
    );
    let stored = crate::support::Stream::read(&world.nats.url(), "RECOVERY").await;
    assert_eq!(stored.0[0].subject, "recovery.count.raised");
    assert_eq!(stored.0[0].header("ce-type"), "count.raised.v1");
    // The same command again continues where it was.
    let more = into().to_row(40).missing().run().await.unwrap();
    assert_eq!((more.stored, more.events()), (20, 10));
    assert_eq!(
        counts(&world, "RECOVERY").await,
        (10..40).collect::<Vec<_>>()
    );
    // Copied events do not count as duplicates in the stream of events.
    let found = verify(&world).await;
    assert!(found.is_ok(), "{found:?}");
    assert_eq!((found.streams.len(), found.streams[0].duplicates), (1, 0));
    assert_eq!(ledger_says(&world, "copied").await, 30);
}

async fn a_forced_event_is_stored_twice<DB: Database>(world: World<DB>) {
    publish(&world, 0).await;
    let forced = Republish::new(&world.bus, &world.outbox);
    let forced = forced.from_row(1).to_row(3).force();
    assert_eq!(forced.run().await.unwrap().events(), 3);
    assert_eq!(world.stored().await.duplicated(), 3);
    assert_eq!(verify(&world).await.streams[0].duplicates, 3);
}

async fn a_name_without_a_stream_is_reported<DB: Database>(world: World<DB>) {
    publish(&world, 0).await;
    let republish = Republish::new(&world.bus, &world.outbox).into_prefix("nowhere");
    let refused = republish.run().await.unwrap_err();
    assert!(
        matches!(&refused, RepublishError::NoStream { subject } if subject == "nowhere.count.raised"),
        "{refused}"
    );
    let republish = Republish::new(&world.bus, &world.outbox).into_prefix("x".repeat(190));
    let refused = republish.dry_run().await.unwrap_err();
    assert!(refused.to_string().contains("use at most 200"), "{refused}");
}

async fn a_republisher_without_the_lease_publishes_nothing<DB: Database>(world: World<DB>) {
    publish(&world, 0).await;
    let stream = world.jetstream().await.get_stream("EVENTS").await;
    stream.unwrap().purge().await.unwrap();
    let slow = Republish::new(&world.bus, &world.outbox).rate_limit(Rate::per_second(2));
    let running = tokio::spawn(async move { slow.run().await });
    eventually("some are back", || async { world.stored().await.len() > 2 }).await;
    // As if this republisher had been frozen for so long that another one could begin.
    let taken = format!("update {} set republisher = 'another'", DB::table("relay"));
    DB::execute(world.outbox.pool(), &taken).await;
    let ended = within("its end", running).await.unwrap().unwrap_err();
    assert!(matches!(ended, RepublishError::Busy), "{ended}");
    let stored = world.stored().await;
    assert!(stored.len() < EVENTS as usize, "{}", stored.len());
    // The ledger still contains what was published.
    let written = ledger_says(&world, "republished").await;
    assert_eq!(written, stored.len() as i64);
}

async fn an_unreadable_row_blocks_no_other_republication<DB: Database>(world: World<DB>) {
    for from in [0, EVENTS, 2 * EVENTS] {
        publish(&world, from).await;
    }
    let broken = format!(
        "update {} set headers = '[]' where id = 150",
        DB::table("outbox")
    );
    DB::execute(world.outbox.pool(), &broken).await;
    let others = 3 * EVENTS - 1;
    let republish = Republish::new(&world.bus, &world.outbox).force();
    let done = republish.run().await.unwrap();
    assert_eq!((done.events(), done.gone), (others as u64, 1), "{done:?}");
    assert_eq!(world.stored().await.duplicated(), others as usize);
    assert_eq!(ledger_says(&world, "republished").await, others);
}

/// Where most events are missing, whole rows are read while the missing ones are searched, after the 7,500 rows that
/// are read before; where few are missing, these rows are read alone.
async fn scattered_missing_events_are_republished_in_order<DB: Database>(world: World<DB>) {
    const ROWS: i64 = 16_000;
    // A page has at most 105 of these rows, in both ways of reading.
    let is_large = |count: i64| matches!(count, 1_000..1_250 | 8_000..8_250);
    let mut tx = world.outbox.begin().await.unwrap();
    for count in 0..ROWS {
        let text = "x".repeat(if is_large(count) { 40_000 } else { 1 });
        let payload = format!(r#"{{"count":{count},"text":"{text}"}}"#);
        let key = format!("key-{}", count % 3);
        let event = Envelope::raw("count.raised", 1, Some(&key), payload);
        tx.publish(event.unwrap()).unwrap();
    }
    tx.commit().await.unwrap();
    relay(&world).await;

    let stream = world.jetstream().await.get_stream("EVENTS").await;
    let stream = stream.unwrap();
    stream.purge().sequence(12_001).await.unwrap();
    let is_missing = |count: i64| count < 12_000 || count % 10 == 0 || count >= ROWS - 300;
    let (missing, held): (Vec<i64>, _) = (0..ROWS).partition(|count| is_missing(*count));
    let further = missing.iter().filter(|count| **count >= 12_000);
    delete(&world, further.map(|count| count.unsigned_abs() + 1)).await;
    assert_eq!(counts(&world, "EVENTS").await, held);
    // The last events of each key have no later one in the stream.
    let last = |key: i64| held.iter().rfind(|count| *count % 3 == key).unwrap();
    let late = missing.iter().filter(|count| *count < last(*count % 3));
    let late = late.count() as u64;

    let republish = Republish::new(&world.bus, &world.outbox);
    let looked = republish.dry_run().await.unwrap();
    let done = republish.run().await.unwrap();
    let all = (ROWS as u64, held.len() as u64, missing.len() as u64, late);
    assert_eq!(
        (looked.rows, looked.stored, looked.wanted, looked.late),
        all
    );
    assert_eq!((done.rows, done.stored, done.events(), done.late), all);
    assert_eq!(done.gone, 0);
    assert_eq!(counts(&world, "EVENTS").await, [held, missing].concat());
    assert_eq!(verify(&world).await.streams[0].ok, ROWS as u64);
    assert_eq!(republish.run().await.unwrap().events(), 0);
}

/// When the stream has more messages than the republisher can remember, it remembers the rows instead.
#[tokio::test]
async fn missing_events_of_a_large_shared_stream_are_found() {
    const FOREIGN: u64 = 100_000;
    let world = World::<Sqlite>::start().await;
    publish(&world, 0).await;
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    for _ in 0..FOREIGN {
        let foreign = client.publish("user.foreign", "{}".into());
        foreign.await.unwrap();
    }
    client.flush().await.unwrap();
    let jetstream = world.jetstream().await;
    let all = EVENTS as u64 + FOREIGN;
    eventually("all of it is stored", || async {
        let mut stream = jetstream.get_stream("EVENTS").await.unwrap();
        stream.info().await.unwrap().state.messages == all
    })
    .await;
    delete(&world, [7, 8, 30]).await;
    let republish = || Republish::new(&world.bus, &world.outbox);
    let dry = republish().dry_run().await.unwrap();
    assert_eq!((dry.rows, dry.stored, dry.wanted), (60, 57, 3), "{dry:?}");
    let done = republish().from_row(8).run().await.unwrap();
    assert_eq!(
        (done.stored, done.events(), done.late),
        (51, 2, 2),
        "{done:?}"
    );
    assert_eq!(republish().run().await.unwrap().events(), 1);
    assert_eq!(republish().dry_run().await.unwrap().wanted, 0);
}

async fn an_older_copy_of_the_store_is_repaired<DB: Database>() {
    let (world, past) = Past::world::<DB>().await;
    publish(&world, 0).await;
    past.keep(&world.nats).await;
    publish(&world, EVENTS).await;
    past.put_back(&world.nats).await;
    let relay = world.relay();
    eventually("the loss is told", || async {
        !world.outbox.losses().await.unwrap().is_empty()
    })
    .await;
    let repair = repair(&world).await;
    assert_eq!((repair.events(), repair.late), (EVENTS as u64, 0));
    assert_eq!(world.outbox.losses().await.unwrap(), []);
    relay.stop().await.unwrap();
    publish(&world, 2 * EVENTS).await;
    assert_eq!(
        counts(&world, "EVENTS").await,
        (0..3 * EVENTS).collect::<Vec<_>>()
    );
    let found = verify(&world).await;
    assert!(found.is_ok(), "{found:?}");
    assert_eq!(world.outbox.losses().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_store_is_repaired_on_postgres() {
    an_older_copy_of_the_store_is_repaired::<Postgres>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_store_is_repaired_on_sqlite() {
    an_older_copy_of_the_store_is_repaired::<Sqlite>().await;
}

/// A republished event has another message id; a relay that starts again still recognises it.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_reads_the_stream_knows_republished_events() {
    let world = World::<Sqlite>::start().await;
    publish(&world, 0).await;
    delete(&world, 2..=21).await;
    assert_eq!(repair(&world).await.events(), 20);
    // The database is restored to a state before the relay had published anything.
    let before =
        "update tidings_relay set cursor = 0, streams = '{\"EVENTS\": {\"incarnation\": \"' ||
        json_extract(streams, '$.EVENTS.incarnation') || '\", \"sequence\": 0}}'";
    Sqlite::execute(world.outbox.pool(), before).await;
    let mut forgetful = events_stream();
    forgetful.duplicate_window = Duration::from_millis(100);
    world.bus.apply_stream(&forgetful).await.unwrap();
    // real time: until the server has forgotten the ids
    tokio::time::sleep(Duration::from_millis(200)).await;
    relay(&world).await;
    let stored = world.stored().await;
    assert_eq!((stored.len(), stored.duplicated()), (EVENTS as usize, 0));
}

/// A subject with a limit of its own loses messages from the middle of the stream; that is not a loss.
#[tokio::test(flavor = "multi_thread")]
async fn events_removed_by_a_subject_limit_are_not_republished() {
    let world = World::<Sqlite>::start().await;
    let jetstream = world.jetstream().await;
    let mut stream = jetstream.get_stream("EVENTS").await.unwrap();
    let mut config = stream.info().await.unwrap().config.clone();
    config.max_messages_per_subject = 10;
    config.discard = jetstream::stream::DiscardPolicy::Old;
    jetstream.update_stream(config).await.unwrap();
    let first = Envelope::raw("user.created", 1, Some("u"), "{}").unwrap();
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish(first.with_id(EventId::now())).unwrap();
    tx.commit().await.unwrap();
    publish(&world, 0).await;
    let found = verify(&world).await;
    let stream = &found.streams[0];
    assert_eq!(
        (stream.missing, stream.expired),
        (0, EVENTS as u64 - 10),
        "{found:?}"
    );
    assert_eq!(repair(&world).await.events(), 0);
    assert_eq!(world.stored().await.len(), 11);
}
