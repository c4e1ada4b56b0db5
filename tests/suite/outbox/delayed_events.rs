//! Delayed events: published when they are due, in order, once, and not after they were cancelled.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt;
use sqlx::Postgres;
use tidings::{EventId, outbox::OutboxError};

use crate::{
    both,
    support::{Counted, Database, User, World, eventually, within},
};

both!(
    an_event_is_published_when_it_is_due_and_not_before,
    an_event_with_a_past_time_is_published_at_once,
    a_rolled_back_delayed_event_is_never_published,
    a_cancelled_event_is_never_published,
    a_cancel_that_is_rolled_back_has_no_effect,
    a_cancel_at_the_due_time_wins_or_reports_that_it_lost,
    relays_that_die_at_due_times_lose_and_duplicate_nothing,
    two_relays_with_one_lease_move_each_delayed_event_once,
    an_id_that_is_already_delayed_is_refused,
    the_status_counts_delayed_events,
);

fn counted(key: &str, count: i64) -> Counted {
    Counted {
        key: key.to_owned(),
        count,
    }
}

fn millis(millis: i64) -> TimeDelta {
    TimeDelta::milliseconds(millis)
}

async fn publish_at<DB: Database>(world: &World<DB>, count: i64, due: DateTime<Utc>) -> EventId {
    let mut tx = world.outbox.begin().await.unwrap();
    let id = tx.publish_at(&counted("a", count), due).unwrap();
    tx.commit().await.unwrap();
    id
}

async fn cancel<DB: Database>(world: &World<DB>, id: EventId) -> bool {
    let mut tx = world.outbox.begin().await.unwrap();
    let was_there = tx.cancel(id).await.unwrap();
    tx.commit().await.unwrap();
    was_there
}

async fn stored<DB: Database>(world: &World<DB>, events: usize) {
    eventually(&format!("{events} are stored"), || async {
        world.stored().await.len() >= events
    })
    .await;
}

async fn an_event_is_published_when_it_is_due_and_not_before<DB: Database>(world: World<DB>) {
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    let mut seen = client.subscribe("count.raised").await.unwrap();
    client.flush().await.unwrap();
    let relay = world.relay();
    let mut late = Vec::new();
    for round in 0..5 {
        // Polling alone would find it 150 ms later: by then the relay polls four times a second.
        let due = Utc::now() + millis(1400);
        let mut tx = world.outbox.begin().await.unwrap();
        for (n, due) in [due, due + millis(250)].into_iter().enumerate() {
            let event = counted("a", round * 2 + n as i64);
            tx.publish_at(&event, due).unwrap();
        }
        tx.commit().await.unwrap();
        within("the first is published", seen.next()).await.unwrap();
        late.push((Utc::now() - due).num_milliseconds());
        // An event that is due later must not be moved together with this one.
        within("the second is published", seen.next())
            .await
            .unwrap();
        assert!(Utc::now() >= due + millis(250));
    }
    relay.stop().await.unwrap();
    late.sort_unstable();
    assert!(late[0] >= 0, "published {late:?} ms after the hour");
    // The median: a busy machine delays some of them, and a relay that only polled would be late in most rounds.
    let median = late[late.len() / 2];
    assert!(median < 100, "published {late:?} ms after the hour");
}

async fn an_event_with_a_past_time_is_published_at_once<DB: Database>(world: World<DB>) {
    let relay = world.relay();
    publish_at(&world, 1, DateTime::<Utc>::MIN_UTC).await;
    stored(&world, 1).await;
    let mut tx = world.outbox.pool().begin_with(DB::BEGIN).await.unwrap();
    let event = counted("a", 2);
    let enqueueing = world.outbox.enqueue_at(&mut tx, &event, Utc::now());
    let id = enqueueing.await.unwrap();
    tx.commit().await.unwrap();
    publish_at(&world, 3, DateTime::<Utc>::MAX_UTC).await;
    stored(&world, 2).await;
    relay.stop().await.unwrap();
    let stored = world.stored().await;
    assert_eq!((stored.len(), stored.inverted()), (2, 0));
    let message = &stored.0[1];
    assert_eq!(message.header("ce-id"), id.to_string());
    assert_eq!(message.header("ce-partitionkey"), "a");
}

async fn a_rolled_back_delayed_event_is_never_published<DB: Database>(world: World<DB>) {
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish_at(&counted("a", 1), Utc::now()).unwrap();
    tx.rollback().await.unwrap();
    let mut tx = world.outbox.begin().await.unwrap();
    assert!(matches!(
        tx.publish_at(&User::new(""), Utc::now()),
        Err(OutboxError::Envelope(_))
    ));
    tx.commit().await.unwrap();
    let mut tx = world.outbox.pool().begin_with(DB::BEGIN).await.unwrap();
    let event = counted("a", 2);
    let enqueueing = world.outbox.enqueue_at(&mut tx, &event, Utc::now());
    enqueueing.await.unwrap();
    tx.rollback().await.unwrap();
    assert!(world.outbox.delayed(None, 10).await.unwrap().is_empty());
}

async fn a_cancelled_event_is_never_published<DB: Database>(world: World<DB>) {
    let relay = world.relay();
    let due = Utc::now() + millis(400);
    let cancelled = publish_at(&world, 1, due).await;
    let kept = publish_at(&world, 2, due).await;
    assert!(cancel(&world, cancelled).await);
    assert!(!cancel(&world, cancelled).await);
    assert!(!cancel(&world, EventId::now()).await);
    stored(&world, 1).await;
    assert!(!cancel(&world, kept).await);
    publish_at(&world, 3, Utc::now()).await;
    stored(&world, 2).await;
    relay.stop().await.unwrap();
    let stored = world.stored().await;
    assert_eq!(stored.ids()[0], kept.to_string());
    assert_eq!(stored.len(), 2);
}

async fn a_cancel_that_is_rolled_back_has_no_effect<DB: Database>(world: World<DB>) {
    let id = publish_at(&world, 1, Utc::now() + millis(200)).await;
    let mut tx = world.outbox.pool().begin_with(DB::BEGIN).await.unwrap();
    assert!(world.outbox.cancel(&mut tx, id).await.unwrap());
    tx.rollback().await.unwrap();
    let relay = world.relay();
    stored(&world, 1).await;
    relay.stop().await.unwrap();
    assert_eq!(world.stored().await.ids(), [id.to_string()]);
}

async fn a_cancel_at_the_due_time_wins_or_reports_that_it_lost<DB: Database>(world: World<DB>) {
    const EVENTS: i64 = 200;
    let start = Utc::now() + millis(500);
    let mut tx = world.outbox.begin().await.unwrap();
    let all: Vec<EventId> = (0..EVENTS)
        .map(|n| {
            let due = start + millis(n * 10);
            tx.publish_at(&counted(&format!("key-{n}"), n), due)
                .unwrap()
        })
        .collect();
    tx.commit().await.unwrap();
    let world = Arc::new(world);
    let relay = world.relay();
    let cancelling = all.iter().enumerate().map(|(n, id)| {
        let (world, id) = (Arc::clone(&world), *id);
        let due = start + millis(n as i64 * 10);
        tokio::spawn(async move {
            let wait = (due - Utc::now()).to_std().unwrap_or_default();
            // real time: until the event is about to be moved
            tokio::time::sleep(wait + Duration::from_millis(n as u64 % 7)).await;
            cancel(&world, id).await.then_some(id.to_string())
        })
    });
    let cancelled = futures::future::join_all(cancelling.collect::<Vec<_>>()).await;
    let cancelled: BTreeSet<String> = cancelled.into_iter().filter_map(Result::unwrap).collect();
    stored(&world, all.len() - cancelled.len()).await;
    publish_at(&world, 1, Utc::now()).await;
    stored(&world, all.len() - cancelled.len() + 1).await;
    relay.stop().await.unwrap();
    let published: BTreeSet<String> = world.stored().await.ids().into_iter().collect();
    let both: Vec<_> = published.intersection(&cancelled).collect();
    assert!(both.is_empty(), "cancelled and published: {both:?}");
    assert_eq!(published.len() + cancelled.len(), all.len() + 1);
    let raced = !cancelled.is_empty() && cancelled.len() < all.len();
    assert!(raced, "{} of {EVENTS} were cancelled", cancelled.len());
}

/// Delayed events of five keys, many of them due at the same moments, written in reverse order. The counts of a key
/// rise in the order in which the events are due. Returns the number of events.
async fn schedule<DB: Database>(world: &World<DB>, start: DateTime<Utc>) -> usize {
    const MOMENTS: i64 = 20;
    const EACH: i64 = 50;
    for moment in (0..MOMENTS).rev() {
        let due = start + millis(moment * 100);
        for half in 0..2 {
            let mut tx = world.outbox.begin().await.unwrap();
            for n in half * EACH / 2..(half + 1) * EACH / 2 {
                let event = counted(&format!("key-{}", n % 5), moment * EACH + n);
                tx.publish_at(&event, due).unwrap();
            }
            tx.commit().await.unwrap();
        }
    }
    usize::try_from(MOMENTS * EACH).unwrap()
}

async fn each_is_stored_once_in_order<DB: Database>(world: &World<DB>, events: usize) {
    let stored = world.stored().await;
    assert_eq!(
        (stored.len(), stored.duplicated(), stored.inverted()),
        (events, 0, 0)
    );
    let rows = format!("select count(*) from {}", DB::table("outbox"));
    let rows = DB::number(world.outbox.pool(), &rows).await;
    assert_eq!(rows, i64::try_from(events).unwrap());
    assert_eq!(world.outbox.status().await.unwrap().delayed, 0);
}

async fn relays_that_die_at_due_times_lose_and_duplicate_nothing<DB: Database>(world: World<DB>) {
    world.forget_ids_after(Duration::from_millis(100)).await;
    let start = Utc::now() + millis(1500);
    let events = schedule(&world, start).await;
    let mut before = 0;
    while before < events {
        let relay = world.run_relay(world.new_relay().batch(7).lease(Duration::from_millis(200)));
        eventually("more is stored", || async {
            world.stored().await.len() > before
        })
        .await;
        relay.kill().await;
        before = world.stored().await.len();
    }
    each_is_stored_once_in_order(&world, events).await;
}

async fn two_relays_with_one_lease_move_each_delayed_event_once<DB: Database>(world: World<DB>) {
    world.forget_ids_after(Duration::from_millis(100)).await;
    let start = Utc::now() + millis(1500);
    let events = schedule(&world, start).await;
    // A relay asks for the lease after a quarter of its time, and checks twice a second whether it still has it.
    let new_relay = || world.new_relay().lease(Duration::from_millis(400));
    let relays: Vec<_> = (0..3).map(|_| world.run_relay(new_relay())).collect();
    let (long_ago, count) = match DB::KIND {
        "postgres" => (
            "'-infinity'",
            "(convert_from(payload, 'UTF8')::json->>'count')::bigint",
        ),
        _ => ("0", "json_extract(cast(payload as text), '$.count')"),
    };
    let steal = format!("update {} set lease_until = {long_ago}", DB::table("relay"));
    eventually("all are moved", || async {
        DB::execute(world.outbox.pool(), &steal).await;
        world.outbox.status().await.unwrap().delayed == 0
    })
    .await;
    for relay in relays {
        relay.kill().await;
    }
    // A relay whose lease was taken before its end is not fenced from the stream: the log has to be correct.
    assert!(world.outbox.status().await.unwrap().lease.epoch > 2);
    let log = DB::table("outbox");
    let inverted = format!(
        "select count(*) from (
            select {count} as count, lag({count}) over (partition by key order by id) as before
            from {log}) as log where before >= count"
    );
    let number = async |sql: &str| DB::number(world.outbox.pool(), sql).await;
    let rows = number(&format!("select count(*) from {log}")).await;
    assert_eq!((rows, number(&inverted).await), (events as i64, 0));
}

async fn an_id_that_is_already_delayed_is_refused<DB: Database>(world: World<DB>) {
    let due = Utc::now() + millis(3_600_000);
    let id = publish_at(&world, 1, due).await;
    let envelope = tidings::Envelope::of(&counted("a", 2)).unwrap().with_id(id);
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish(&counted("a", 3)).unwrap();
    tx.publish_at(envelope, due).unwrap();
    let refused = tx.commit().await;
    assert!(matches!(
        refused,
        Err(OutboxError::AlreadyDelayed { event: Some(event), .. }) if event == id
    ));
    let status = world.outbox.status().await.unwrap();
    assert_eq!((status.delayed, status.backlog), (1, 0));
}

async fn the_status_counts_delayed_events<DB: Database>(world: World<DB>) {
    let status = world.outbox.status().await.unwrap();
    assert_eq!((status.delayed, status.next_due_seconds), (0, None));
    let hour = Utc::now() + millis(3_600_000);
    let second = publish_at(&world, 2, hour + millis(5)).await;
    let first = publish_at(&world, 1, hour).await;
    let status = world.outbox.status().await.unwrap();
    assert_eq!((status.delayed, status.backlog), (2, 0));
    let wait = status.next_due_seconds.unwrap();
    assert!((3500.0..=3600.0).contains(&wait), "{wait}");

    let coming = world.outbox.delayed(None, 10).await.unwrap();
    assert_eq!([coming[0].id, coming[1].id], [first, second]);
    assert_eq!(coming[0].due.timestamp_micros(), hour.timestamp_micros());
    assert_eq!(coming[0].key.as_deref(), Some("a"));
    assert_eq!(world.outbox.delayed(None, 1).await.unwrap(), coming[..1]);
    assert_eq!(world.outbox.delayed(Some("a"), 9).await.unwrap(), coming);
    assert_eq!(world.outbox.delayed(Some("b"), 9).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_cancel_blocks_only_later_events_of_its_key() {
    let world = World::<Postgres>::start().await;
    let relay = world.relay();
    let due = Utc::now() + millis(700);
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish_at(&counted("a", 1), due).unwrap();
    let held = tx.publish_at(&counted("a", 2), due).unwrap();
    tx.publish_at(&counted("a", 3), due + millis(1)).unwrap();
    tx.publish_at(&counted("b", 1), due + millis(2)).unwrap();
    tx.publish_at(&User::new("a"), due + millis(2)).unwrap();
    tx.commit().await.unwrap();
    let mut open = world.outbox.begin().await.unwrap();
    assert!(open.cancel(held).await.unwrap());
    // The first event of its key, and the event of the other key.
    stored(&world, 2).await;
    let mut tx = world.outbox.begin().await.unwrap();
    tx.publish(&counted("c", 1)).unwrap();
    tx.commit().await.unwrap();
    stored(&world, 3).await;
    assert_eq!(world.outbox.status().await.unwrap().delayed, 3);
    open.rollback().await.unwrap();
    stored(&world, 6).await;
    relay.stop().await.unwrap();
    let stored = world.stored().await;
    let counts = |key: &str| -> Vec<i64> {
        let of_key = stored.0.iter();
        of_key
            .filter(|message| message.header("ce-partitionkey") == key)
            .filter_map(|message| message.json()["count"].as_i64())
            .collect()
    };
    assert_eq!((counts("a"), counts("b")), (vec![1, 2, 3], vec![1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sql_function_delays_an_event() {
    let world = World::<Postgres>::start().await;
    let pool = world.outbox.pool();
    let enqueue = "select tidings.enqueue('count.raised', 1, 'a', '{\"count\": 1}',
        due => clock_timestamp() + interval '300 ms')::text";
    let id = Postgres::word(pool, enqueue).await;
    assert_eq!(world.outbox.status().await.unwrap().delayed, 1);
    let relay = world.relay();
    stored(&world, 1).await;
    relay.stop().await.unwrap();
    assert_eq!(world.stored().await.ids(), [id]);
}

/// Until an infinite time, a relay could not compute how long to wait, and would publish nothing any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_infinite_time_is_refused_and_a_very_late_one_is_not() {
    let world = World::<Postgres>::start().await;
    let pool = world.outbox.pool();
    for due in ["infinity", "-infinity", "290000-01-01 00:00:00+00"] {
        let enqueue =
            format!("select tidings.enqueue('count.raised', 1, 'a', '{{}}', due => '{due}')");
        let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(enqueue))
            .execute(pool)
            .await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("is not a time"), "{due}: {refused}");
        let insert = format!(
            "insert into tidings.delayed (event, due, name, payload)
            values (gen_random_uuid(), '{due}', 'count.raised', '{{}}')"
        );
        let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(insert))
            .execute(pool)
            .await;
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("check constraint"),
            "{due}"
        );
    }
    publish_at(&world, 1, DateTime::<Utc>::MAX_UTC).await;
    let coming = world.outbox.delayed(None, 9).await.unwrap();
    assert_eq!(coming.len(), 1);
    let relay = world.relay();
    publish_at(&world, 2, Utc::now()).await;
    stored(&world, 1).await;
    relay.stop().await.unwrap();
}
