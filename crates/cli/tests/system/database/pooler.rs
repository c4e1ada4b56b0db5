//! Postgres behind pgbouncer in transaction mode: every transaction of relay, writers and migration gets another
//! connection. When pgbouncer is not installed, the tests are skipped with a message.

use std::{process::Stdio, sync::Arc, time::Duration};

use sqlx::{Connection, PgConnection, Postgres};
use tidings::{Envelope, StreamSpec};
use tidings_test_servers::NatsServer;
use tokio::process::Command;

use crate::support::{Counted, Database, POOL, Pgbouncer, Stream, World, eventually, within};

const WRITERS: usize = 8;
const TRANSACTIONS: usize = 60;

async fn write(world: &World<Postgres>, writer: usize, n: usize) -> usize {
    let key = format!("key-{}", (writer * 7 + n * 3) % 5);
    let mut tx = world.outbox.begin().await.unwrap();
    let count = Postgres::count_up(&mut tx, &key).await.unwrap();
    tx.publish(&Counted { key, count }).unwrap();
    if n.is_multiple_of(6) {
        // A second event, without a key: the insert has more than one row.
        tx.publish(Envelope::raw("user.seen", 1, None, "{}").unwrap())
            .unwrap();
    }
    if (writer + n).is_multiple_of(5) {
        tx.rollback().await.unwrap();
        return 0;
    }
    tx.commit().await.unwrap();
    1 + usize::from(n.is_multiple_of(6))
}

#[tokio::test(flavor = "multi_thread")]
async fn through_pgbouncer_a_killed_relay_loses_nothing() {
    let Some((world, pgbouncer)) = World::behind_pgbouncer().await else {
        return;
    };
    // The server forgets ids at once: only the check of the end of the stream prevents duplicates.
    let subjects = ["user.>", "count.>"].map(|subject| subject.parse().unwrap());
    let mut stream = StreamSpec::new("EVENTS", subjects).unwrap();
    stream.duplicate_window = Duration::from_millis(100);
    world.bus.apply_stream(&stream).await.unwrap();
    let world = Arc::new(world);
    let first = world.run_relay(world.new_relay().batch(7));
    eventually("the first has the lease", || async {
        world.outbox.status().await.unwrap().lease.epoch == 1
    })
    .await;
    let second = world.run_relay(world.new_relay().batch(7));
    let writers = (0..WRITERS).map(|writer| {
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let mut committed = 0;
            for n in 0..TRANSACTIONS {
                committed += write(&world, writer, n).await;
            }
            committed
        })
    });
    let writers = futures::future::join_all(writers);
    let killed = async {
        eventually("it works", || async { world.stored().await.len() > 50 }).await;
        first.kill().await;
    };
    let (committed, ()) = futures::join!(writers, killed);
    let committed: usize = committed.into_iter().map(Result::unwrap).sum();
    world.is_settled().await;

    assert!(world.outbox.status().await.unwrap().lease.epoch >= 2);
    let connections = pgbouncer.connections().await;
    assert!(
        (1..=POOL as i64).contains(&connections),
        "{connections} connections to Postgres: they are not shared"
    );
    second.stop().await.unwrap();
    let stored = world.stored().await;
    assert_eq!((stored.len(), stored.duplicated()), (committed, 0));
    let ordered = stored.of("count.raised");
    assert!(ordered.len() > WRITERS * TRANSACTIONS / 2);
    assert_eq!(ordered.inverted(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn through_pgbouncer_a_clean_stop_hands_over_at_once() {
    let Some((world, _)) = World::behind_pgbouncer().await else {
        return;
    };
    // The lease lasts an hour: the second relay can take over only when the first one releases it.
    let first = world.run_relay(world.new_relay().lease(Duration::from_secs(3600)));
    write(&world, 1, 1).await;
    world.is_settled().await;
    first.stop().await.unwrap();
    let second = world.relay();
    write(&world, 1, 2).await;
    world.is_settled().await;
    second.stop().await.unwrap();
    assert_eq!(world.outbox.status().await.unwrap().lease.epoch, 2);
    let stored = world.stored().await;
    assert_eq!((stored.len(), stored.duplicated()), (2, 0));
}

/// The other work of a relay: it parks rows, and empties old slots. Also `enqueue` in a transaction of the caller.
#[tokio::test(flavor = "multi_thread")]
async fn through_pgbouncer_rows_are_parked_and_slots_are_freed() {
    let Some((world, pgbouncer)) = World::behind_pgbouncer().await else {
        return;
    };
    let again = world.outbox.migrate().await.unwrap();
    assert!(again.is_empty(), "{again:?}");
    let mut direct = PgConnection::connect(&pgbouncer.postgres.url_of("pooled"))
        .await
        .unwrap();
    // A row of a week ago, in a slot that is neither the current nor the next one.
    let old = "insert into tidings.outbox (created_at, event, name, key, payload, slot)
        values (now() - interval '7 days', gen_random_uuid(), 'user.created', 'old', '{}',
                (date_part('epoch', clock_timestamp())::bigint / 10800 + 4) % 8)";
    sqlx::raw_sql(old).execute(&mut direct).await.unwrap();
    let mut tx = world.outbox.pool().begin().await.unwrap();
    for name in ["nobody.takes_this", "user.created"] {
        let event = Envelope::raw(name, 1, Some(name), "{}").unwrap();
        world.outbox.enqueue(&mut tx, event).await.unwrap();
    }
    tx.commit().await.unwrap();
    let relay = world.relay();
    world.is_settled().await;
    eventually("the old slot is freed", || async {
        let left = "select count(*) from tidings.outbox where key = 'old'";
        let mut direct = PgConnection::connect(&pgbouncer.postgres.url_of("pooled"))
            .await
            .unwrap();
        let left: i64 = sqlx::query_scalar(left)
            .fetch_one(&mut direct)
            .await
            .unwrap();
        left == 0
    })
    .await;
    let status = world.outbox.status().await.unwrap();
    assert_eq!((status.parked, status.lease.epoch), (1, 1));
    relay.stop().await.unwrap();
    let stored = world.stored().await;
    assert_eq!((stored.len(), stored.duplicated()), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn through_pgbouncer_the_program_works_or_names_the_cure() {
    let Some(pgbouncer) = Pgbouncer::start().await else {
        return;
    };
    let nats = NatsServer::start().await.unwrap();
    let url = pgbouncer.url("postgres");
    let program = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
        command
            .args(arguments)
            .env_clear()
            .current_dir(std::env::temp_dir())
            .env("TIDINGS_NATS_URL", nats.url())
            .env("TIDINGS_DATABASE_URL", &url)
            .env(
                "TIDINGS_STREAM",
                r#"[{ name = "EVENTS", subjects = ["user.>"] }]"#,
            )
            .env("TIDINGS_LOG", "warn")
            .kill_on_drop(true);
        command
    };
    let said = async |arguments: &[&str]| {
        let output = within("its end", program(arguments).output()).await;
        let output = output.unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let migrated = said(&["migrate"]).await;
    assert!(migrated.contains("applied 0001_outbox"), "{migrated}");
    assert_eq!(said(&["migrate"]).await, "nothing to do\n");
    said(&["streams", "apply"]).await;
    let mut relay = program(&["relay"]);
    let relay = relay.stdout(Stdio::null()).spawn().unwrap();
    eventually("the relay has the lease", || async {
        said(&["outbox", "status"]).await.contains("epoch 1")
    })
    .await;
    let id = "0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11";
    for at in 1..=5 {
        let user = format!(
            r#"{{"id":"{id}","email":"ada-{at}@example.org","created_at":"2026-11-21T09:30:0{at}Z"}}"#
        );
        said(&["publish", "user.created", "--key", id, "--data", &user]).await;
    }
    let mut direct = PgConnection::connect(&pgbouncer.postgres.url())
        .await
        .unwrap();
    eventually("all are stored", || async {
        Stream::read(&nats.url(), "EVENTS").await.len() == 5
    })
    .await;
    let epoch = "select epoch from tidings.relay";
    let epoch: i64 = sqlx::query_scalar(epoch)
        .fetch_one(&mut direct)
        .await
        .unwrap();
    assert_eq!(epoch, 1, "the relay was interrupted");
    drop(relay);

    let unannounced = url.replace("statement-cache-capacity=0", "statement-cache-capacity=9");
    eventually("it names the cure", || async {
        let mut command = program(&["outbox", "status", "--database-url", &unannounced]);
        let output = within("its end", command.output()).await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        said.contains("try: append ?statement-cache-capacity=0")
    })
    .await;
}
