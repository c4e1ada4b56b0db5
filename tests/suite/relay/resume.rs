//! P3 and P4 in the hard cases: what a relay knows when it begins again, and how it copes with a silent server, a
//! changing stream, and large or wrong rows.

use std::time::Duration;

use async_nats::HeaderMap;
use sqlx::{Postgres, Sqlite, postgres::PgPoolOptions};
use tidings::{Envelope, Outbox, StreamSpec, event::Pattern};

use crate::{
    both,
    support::{Database, Proxy, Stream, World, eventually},
};

both!(
    foreign_messages_are_read_once_and_not_at_every_start,
    a_recreated_stream_is_read_from_its_beginning_after_crashes,
    a_subject_that_moves_to_another_stream_is_followed,
    a_purge_while_the_tail_is_read_does_not_stop_the_relay,
);

const AN_HOUR: Duration = Duration::from_secs(3600);

/// Publishes an event of each name in one transaction.
async fn publish<DB: Database>(world: &World<DB>, names: &[&str], key: &str) {
    let mut tx = world.outbox.begin().await.unwrap();
    for name in names {
        tx.publish(Envelope::raw(name, 1, Some(key), "{}").unwrap())
            .unwrap();
    }
    tx.commit().await.unwrap();
}

/// A relay has published one event and has stopped.
async fn one_is_relayed<DB: Database>(world: &World<DB>) {
    let relay = world.relay();
    publish(world, &["count.raised"], "first").await;
    world.is_settled().await;
    relay.stop().await.unwrap();
}

/// Another publisher writes into the stream until it has this many messages.
async fn others_write<DB: Database>(world: &World<DB>, up_to: u64) {
    let client = async_nats::connect(world.nats.url()).await.unwrap();
    for _ in 0..up_to {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", uuid::Uuid::now_v7().to_string());
        let publishing = client.publish_with_headers("user.created", headers, "{}".into());
        publishing.await.unwrap();
    }
    client.flush().await.unwrap();
    eventually("what others wrote is stored", || async {
        last_sequence(world).await >= up_to
    })
    .await;
}

async fn last_sequence<DB: Database>(world: &World<DB>) -> u64 {
    let jetstream = world.jetstream().await;
    let mut stream = jetstream.get_stream("EVENTS").await.unwrap();
    stream.info().await.unwrap().state.last_sequence
}

/// The position of the relay in a stream, as recorded.
async fn position<DB: Database>(world: &World<DB>, stream: &str) -> i64 {
    let relay = DB::table("relay");
    let sql = format!(
        "select coalesce(cast(streams->'{stream}'->>'sequence' as bigint), -1) from {relay}"
    );
    DB::number(world.outbox.pool(), &sql).await
}

async fn foreign_messages_are_read_once_and_not_at_every_start<DB: Database>(world: World<DB>) {
    one_is_relayed(&world).await;
    others_write(&world, 5000).await;
    let end = i64::try_from(last_sequence(&world).await).unwrap();
    assert!(position(&world, "EVENTS").await < end);
    let relay = world.relay();
    eventually("the position is past it", || async {
        position(&world, "EVENTS").await == end
    })
    .await;
    relay.stop().await.unwrap();
    assert_eq!(position(&world, "EVENTS").await, end);
}

async fn a_recreated_stream_is_read_from_its_beginning_after_crashes<DB: Database>(
    world: World<DB>,
) {
    let incarnation = async || {
        let relay = DB::table("relay");
        let sql = format!("select streams->'EVENTS'->>'incarnation' from {relay}");
        DB::word(world.outbox.pool(), &sql).await
    };
    world.forget_ids_after(Duration::from_millis(100)).await;
    world.full_stream().await;
    one_is_relayed(&world).await;
    // An event that its stream refuses keeps the page open, so that the position does not pass it.
    let relay = world.run_relay(world.new_relay().stall_timeout(AN_HOUR));
    publish(&world, &["count.raised"], "second").await;
    world.is_settled().await;
    let jetstream = world.jetstream().await;
    jetstream.delete_stream("EVENTS").await.unwrap();
    world.forget_ids_after(Duration::from_millis(100)).await;
    publish(&world, &["count.raised", "full.up"], "third").await;
    eventually("the new stream has it", || async {
        world.stored().await.len() == 1
    })
    .await;
    relay.kill().await;

    let was = incarnation().await;
    let relay = world.run_relay(world.new_relay().stall_timeout(AN_HOUR));
    eventually("the next one knows the new stream", || async {
        incarnation().await != was
    })
    .await;
    relay.kill().await;

    // The lease outlasts the server's memory for ids.
    let relay = world.relay();
    world.is_settled().await;
    relay.stop().await.unwrap();
    let stored = world.stored().await;
    assert_eq!((stored.len(), stored.duplicated()), (1, 0));
    assert_eq!(world.parked().await, 1);
}

async fn a_subject_that_moves_to_another_stream_is_followed<DB: Database>(world: World<DB>) {
    let apply = async |stream: &str, subjects: &[&str]| {
        let subjects = subjects.iter().map(|s| Pattern::parse(s).unwrap());
        let spec = StreamSpec::new(stream, subjects).unwrap();
        world.bus.apply_stream(&spec).await.unwrap();
    };
    // Applying a stream only adds subjects.
    let prune = async |stream: &str, subject: &str| {
        let jetstream = world.jetstream().await;
        let stream = jetstream.get_stream(stream).await.unwrap();
        let mut config = stream.cached_info().config.clone();
        config.subjects = vec![subject.to_owned()];
        jetstream.update_stream(config).await.unwrap();
    };
    let ledger = async |what: &str, stream: &str| {
        let table = DB::table("ledger");
        let sql = format!("select {what} from {table} where stream = '{stream}'");
        DB::number(world.outbox.pool(), &sql).await
    };
    let relay = world.relay();
    publish(&world, &["count.raised"], "a").await;
    world.is_settled().await;

    // First a batch of twenty finds that its subject has moved, then a single event does.
    let jetstream = world.jetstream().await;
    for (from, its_own, to, taken, events) in [
        ("EVENTS", "user.>", "SECOND", ["second.>", "count.>"], 20),
        ("SECOND", "second.>", "THIRD", ["third.>", "count.>"], 1),
    ] {
        prune(from, its_own).await;
        apply(to, &taken).await;
        let others = taken[0].replace('>', "x");
        for _ in 0..50 {
            let publishing = jetstream.publish(others.clone(), "".into()).await.unwrap();
            publishing.await.unwrap();
        }
        publish(&world, &vec!["count.raised"; events], "a").await;
        world.is_settled().await;
    }
    relay.stop().await.unwrap();

    for (stream, first, last) in [("EVENTS", 1, 1), ("SECOND", 51, 70), ("THIRD", 51, 51)] {
        let mut stored = Stream::read(&world.nats.url(), stream).await;
        stored.0.retain(|message| message.subject == "count.raised");
        let events = last - first + 1;
        assert_eq!((stored.len() as i64, stored.duplicated()), (events, 0));
        assert_eq!(ledger("sum(events)", stream).await, events);
        assert_eq!(ledger("min(first_sequence)", stream).await, first);
        assert_eq!(ledger("max(last_sequence)", stream).await, last);
        assert_eq!(position(&world, stream).await, last);
    }
    assert_eq!(world.parked().await, 0);
}

async fn a_purge_while_the_tail_is_read_does_not_stop_the_relay<DB: Database>(world: World<DB>) {
    one_is_relayed(&world).await;
    others_write(&world, 20_000).await;
    let jetstream = world.jetstream().await;
    let stream = jetstream.get_stream("EVENTS").await.unwrap();
    publish(&world, &["count.raised"], "a").await;
    let relay = world.relay();
    eventually("the tail is being read", || async {
        let info = stream.get_info().await.unwrap();
        info.state.consumer_count > 0
    })
    .await;
    stream.purge().await.unwrap();
    world.is_settled().await;
    relay.stop().await.unwrap();
    assert_eq!(world.stored().await.len(), 1);
}

/// An outbox whose connections go through a proxy.
async fn through_a_proxy(world: &World<Postgres>) -> (Proxy, Outbox<Postgres>) {
    let options = world.outbox.pool().connect_options();
    let proxy = Proxy::to(options.get_port()).await;
    let options = options.as_ref().clone();
    let options = options.host("127.0.0.1").port(proxy.port);
    let pool = PgPoolOptions::new().connect_lazy_with(options);
    (proxy, Outbox::new(pool))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_database_connection_is_replaced() {
    let world = World::<Postgres>::start().await;
    let (proxy, outbox) = through_a_proxy(&world).await;
    let relay = tidings::Relay::new(outbox).lease(Duration::from_secs(1));
    let relay = world.run_relay(relay);
    publish(&world, &["count.raised"], "a").await;
    world.is_settled().await;
    proxy.silence();
    publish(&world, &["count.raised"], "a").await;
    world.is_settled().await;
    relay.stop().await.unwrap();
    let stored = world.stored().await;
    assert_eq!((stored.len(), stored.duplicated()), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_stored_in_another_order_are_not_stored_again() {
    let world = World::<Postgres>::start().await;
    let pool = world.outbox.pool();
    let stored = async |count| {
        eventually("it is stored", || async {
            world.stored().await.len() == count
        })
        .await;
    };
    // Pages of two rows.
    let new_relay = || {
        let relay = world.new_relay().batch(1).lease(Duration::from_secs(60));
        relay.stall_timeout(AN_HOUR)
    };
    const TAKE_THE_LEASE_AWAY: &str = "update tidings.relay set lease_until = '-infinity'";
    world.forget_ids_after(Duration::from_millis(100)).await;
    world.full_stream().await;
    let relay = world.run_relay(new_relay());
    publish(&world, &["count.raised"], "first").await;
    world.is_settled().await;
    // The following events are stored in the stream, and the relay cannot record it.
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("select from tidings.relay for update")
        .execute(&mut *lock)
        .await
        .unwrap();
    let mut early = pool.begin().await.unwrap();
    let envelope = Envelope::raw("count.raised", 1, Some("early"), "{}").unwrap();
    world.outbox.enqueue(&mut early, envelope).await.unwrap();
    publish(&world, &["count.raised"], "second").await;
    stored(2).await;
    publish(&world, &["count.raised"], "third").await;
    stored(3).await;
    early.commit().await.unwrap();
    stored(4).await;
    relay.kill().await;
    let end_what_waits = "select count(pg_terminate_backend(pid)) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'";
    eventually("nothing waits for the lock", || async {
        Postgres::number(pool, end_what_waits).await == 0
    })
    .await;
    lock.rollback().await.unwrap();
    Postgres::execute(pool, TAKE_THE_LEASE_AWAY).await;

    // The next relay finds them in the stream, the early one first, and dies after the first page.
    publish(&world, &["full.up"], "fourth").await;
    let relay = world.run_relay(new_relay());
    eventually("the first page is written down", || async {
        let sql = "select count(*) from tidings.relay where page_id is not null";
        Postgres::number(pool, sql).await == 1
    })
    .await;
    relay.kill().await;
    // real time: until the server has forgotten the ids
    tokio::time::sleep(Duration::from_millis(150)).await;
    Postgres::execute(pool, TAKE_THE_LEASE_AWAY).await;

    let relay = world.relay();
    world.is_settled().await;
    relay.stop().await.unwrap();
    let stored = world.stored().await;
    assert_eq!((stored.len(), stored.duplicated()), (4, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_rows_are_not_read_repeatedly() {
    const ROWS: u64 = 200;
    const BYTES: u64 = 200_000;
    let world = World::<Postgres>::start().await;
    let (proxy, outbox) = through_a_proxy(&world).await;
    let sql = format!(
        "insert into tidings.outbox (event, name, key, payload)
         select gen_random_uuid(), 'count.raised', n::text, convert_to(repeat('9', {BYTES}), 'UTF8')
         from generate_series(1, {ROWS}) as n"
    );
    Postgres::execute(world.outbox.pool(), &sql).await;
    let relay = world.run_relay(tidings::Relay::new(outbox));
    world.is_settled().await;
    relay.stop().await.unwrap();
    let (carried, read) = (ROWS * BYTES, proxy.said());
    assert!(read >= carried, "{read} bytes were read");
    assert!(read < carried * 3, "{read} bytes were read for {carried}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_refuses_a_row_that_no_relay_can_read() {
    let world = World::<Sqlite>::start().await;
    let row = [
        ("created_at", "1"),
        ("event", "randomblob(16)"),
        ("name", "'count.raised'"),
        ("version", "1"),
        ("key", "'a'"),
        ("headers", "'{}'"),
        ("payload", "x'7b7d'"),
    ];
    let insert = async |wrong: Option<(&str, &str)>| {
        let value = |(column, right): (&str, &'static str)| match wrong {
            Some((name, value)) if name == column => value.to_owned(),
            _ => right.to_owned(),
        };
        let sql = format!(
            "insert into tidings_outbox ({}) values ({})",
            row.map(|(column, _)| column).join(", "),
            row.map(value).join(", "),
        );
        let inserting = sqlx::query(sqlx::AssertSqlSafe(sql));
        inserting.execute(world.outbox.pool()).await
    };
    for wrong in [
        ("created_at", "'today'"),
        ("event", "'018f0000-0000-7000-8000-000000000000'"),
        ("event", "randomblob(15)"),
        ("name", "x'636f756e742e726169736564'"),
        ("version", "'one'"),
        ("version", "1.5"),
        ("key", "x'61'"),
        ("headers", "x'7b7d'"),
        ("payload", "'{}'"),
    ] {
        let error = insert(Some(wrong)).await.expect_err(wrong.0);
        let error = error.as_database_error().unwrap();
        assert!(error.is_check_violation(), "{wrong:?}: {error}");
    }
    insert(None).await.unwrap();
    let relay = world.relay();
    world.is_settled().await;
    relay.stop().await.unwrap();
    assert_eq!((world.stored().await.len(), world.parked().await), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_slot_is_scanned_to_relay_or_free_rows() {
    let world = World::<Postgres>::start().await;
    let pool = world.outbox.pool();
    let options = pool.connect_options().as_ref().clone();
    let options = options.application_name("the relay");
    let relay = || {
        let pool = PgPoolOptions::new().connect_lazy_with(options.clone());
        let relay = tidings::Relay::new(Outbox::new(pool));
        world.run_relay(relay.lease(Duration::from_secs(1)))
    };
    let walked = async || {
        // A connection reports its statistics when it ends.
        let open = "select count(*) from pg_stat_activity
            where datname = current_database() and application_name = 'the relay'";
        eventually("the relay's connections have ended", || async {
            Postgres::number(pool, open).await == 0
        })
        .await;
        let walked = "select sum(seq_tup_read)::bigint from pg_stat_user_tables
            where schemaname = 'tidings' and relname ~ '^outbox_'";
        Postgres::number(pool, walked).await
    };
    // Into slots that are neither the current nor the next one: one may be emptied, the others may not.
    const OLD: &str = "insert into tidings.outbox (event, name, payload, created_at, slot)
        select gen_random_uuid(), 'count.raised', '\\x7b7d', now() - make_interval(hours => case n % 3 when 0 then 20 else 2 end),
               (date_part('epoch', now())::bigint / 10800 + 3 + n % 3) % 8
        from generate_series(1, 6000) as n";
    Postgres::execute(pool, OLD).await;
    let running = relay();
    eventually("they are stored", || async {
        last_sequence(&world).await == 6000
    })
    .await;
    running.stop().await.unwrap();
    let before = walked().await;

    // The statements are planned while there are no new rows and no statistics of the tables.
    let running = relay();
    let freed = "select count(*) from generate_series(0, 7) as n
        where pg_relation_size(format('tidings.outbox_%s', n)::regclass) > 0";
    eventually("the oldest slot is freed", || async {
        Postgres::number(pool, freed).await == 2
    })
    .await;
    const NEW: &str = "insert into tidings.outbox (event, name, payload)
        select gen_random_uuid(), 'count.raised', '\\x7b7d' from generate_series(1, 500)";
    for _ in 0..6 {
        Postgres::execute(pool, NEW).await;
    }
    eventually("the new ones are stored", || async {
        last_sequence(&world).await == 9000
    })
    .await;
    running.stop().await.unwrap();
    let walked = walked().await - before;
    assert!(walked < 100, "{walked} rows were walked through");
}
