//! P9: a client that locks the tables of the outbox is named within seconds, by the commands of an operator and by the
//! relay; and a database that cannot write any more reports the reason.

use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection, Postgres, Sqlite, sqlite::SqlitePoolOptions};
use tidings::{
    Outbox,
    outbox::{MigrateError, OutboxError, ParkedSelection},
};

use crate::support::{Database, User, World, eventually, log, within};

/// Five seconds for the lock, and the delay that a busy machine may add.
const SOON: Duration = Duration::from_secs(15);

/// A connection of another application with this name.
async fn somebody(world: &World<Postgres>, application: &str) -> PgConnection {
    let to = (*world.outbox.pool().connect_options()).clone();
    let to = to.application_name(application);
    PgConnection::connect_with(&to).await.unwrap()
}

async fn say(connection: &mut PgConnection, sql: &str) {
    let sql = sqlx::AssertSqlSafe(sql.to_owned());
    sqlx::raw_sql(sql).execute(connection).await.unwrap();
}

/// The error of a call that waits for a lock.
async fn refused<T: std::fmt::Debug>(
    what: &str,
    asking: impl Future<Output = Result<T, OutboxError>>,
) -> String {
    let began = Instant::now();
    let refused = within(what, asking).await;
    assert!(began.elapsed() < SOON, "{what}: {:?}", began.elapsed());
    match refused {
        Err(error @ OutboxError::Locked { .. }) => error.to_string(),
        other => panic!("{what}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_holder_of_a_table_lock_is_named_by_every_command() {
    let world = World::<Postgres>::start().await;
    let mut holder = somebody(&world, "nightly-report").await;
    for table in ["relay", "parked", "delayed", "ledger", "outbox"] {
        let lock = format!("begin; lock table tidings.{table} in access exclusive mode");
        say(&mut holder, &lock).await;
        let said = match table {
            "delayed" => refused(table, world.outbox.delayed(None, 9)).await,
            "parked" => refused(table, world.outbox.unpark(&ParkedSelection::All)).await,
            "outbox" => refused(table, world.outbox.publish_alone(&User::new("a"), None)).await,
            _ => refused(table, world.outbox.status()).await,
        };
        for word in [
            "pid ",
            "nightly-report",
            "idle in transaction",
            "lock table",
            table,
        ] {
            assert!(said.contains(word), "{word}: {said}");
        }
        // Once, even if it has locked all partitions of a table.
        assert_eq!(said.matches("by pid ").count(), 1, "{said}");
        assert!(said.contains(&format!("tidings.{table} by pid")), "{said}");
        say(&mut holder, "rollback").await;
        // Only the lock was the reason, and the wait has no effect on later calls.
        within("status", world.outbox.status()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_event_does_not_wait_silently_for_a_lock() {
    let world = World::<Postgres>::start().await;
    let mut holder = somebody(&world, "holder").await;
    let lock = "begin; lock table tidings.delayed in access exclusive mode";
    say(&mut holder, lock).await;
    let later = Some(chrono::Utc::now() + chrono::TimeDelta::hours(1));
    let said = refused(
        "publish",
        world.outbox.publish_alone(&User::new("a"), later),
    )
    .await;
    assert!(said.contains("tidings.delayed by pid"), "{said}");
    say(&mut holder, "rollback").await;
    let user = User::new("a");
    let alone = world.outbox.publish_alone(&user, later);
    within("publish", alone).await.unwrap();
    assert_eq!(world.outbox.status().await.unwrap().delayed, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_for_a_row_lock_is_not_named() {
    log::listen();
    let world = World::<Postgres>::start().await;
    let relay = world.relay();
    eventually("it relays", || async {
        world.outbox.status().await.unwrap().lease.owner.is_some()
    })
    .await;
    let called = |what: &str| format!("{what}-{}", uuid::Uuid::now_v7().simple());
    let (holds, waits) = (called("holder"), called("waiter"));
    let mut holder = somebody(&world, &holds).await;
    say(&mut holder, "begin; select from tidings.relay for update").await;
    let mut waiter = somebody(&world, &waits).await;
    let waiting = tokio::spawn(async move {
        say(
            &mut waiter,
            "update tidings.relay set singleton = singleton",
        )
        .await;
    });
    eventually("it is named", || async { !log::said(&holds).is_empty() }).await;
    let lines = log::said(&holds);
    assert!(lines.iter().all(|line| !line.contains(&waits)), "{lines:?}");
    assert!(log::said("a part of the relay ended").is_empty());
    say(&mut holder, "rollback").await;
    within("it goes on", waiting).await.unwrap();
    relay.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_change_and_the_reader_before_it_are_named() {
    let world = World::<Postgres>::start().await;
    let mut reader = somebody(&world, "reader").await;
    say(&mut reader, "begin; select count(*) from tidings.parked").await;
    let mut changer = somebody(&world, "changer").await;
    let changing = tokio::spawn(async move {
        say(
            &mut changer,
            "alter table tidings.parked add column later int",
        )
        .await;
    });
    let waits =
        "select count(*) from pg_locks where not granted and relation = 'tidings.parked'::regclass";
    eventually("it waits", || async {
        Postgres::number(world.outbox.pool(), waits).await == 1
    })
    .await;
    let parked = world.outbox.parked(&ParkedSelection::All, 0, 9);
    let said = refused("parked", parked).await;
    assert!(
        said.contains("reader") && said.contains("changer"),
        "{said}"
    );
    say(&mut reader, "commit").await;
    within("the change", changing).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_does_not_wait_endlessly_for_a_transaction() {
    let world = World::<Postgres>::start().await;
    let mut holder = somebody(&world, "holder").await;
    say(
        &mut holder,
        "begin; lock table tidings.migration in access exclusive mode",
    )
    .await;
    match within("migrate", world.outbox.migrate()).await {
        Err(MigrateError::Locked { by, .. }) => assert!(by.contains("holder"), "{by}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_relay_names_the_client_that_locks_its_tables() {
    log::listen();
    for lock in [
        "lock table tidings.relay in access exclusive mode",
        "select from tidings.relay for update",
        "lock table tidings.outbox in access exclusive mode",
        "lock table tidings.parked in access exclusive mode",
    ] {
        let world = World::<Postgres>::start().await;
        let relay = world.relay();
        eventually("it relays", || async {
            world.outbox.status().await.unwrap().lease.owner.is_some()
        })
        .await;
        let application = format!("holder-{}", uuid::Uuid::now_v7().simple());
        let mut holder = somebody(&world, &application).await;
        say(&mut holder, &format!("begin; {lock}")).await;
        let began = Instant::now();
        eventually("it is named", || async {
            !log::said(&application).is_empty()
        })
        .await;
        assert!(began.elapsed() < SOON, "{lock}: {:?}", began.elapsed());
        // From the first message on.
        let ended = log::said("a part of the relay ended");
        assert!(ended.is_empty(), "{lock}: {ended:?}");
        say(&mut holder, "rollback").await;
        let mut tx = world.outbox.begin().await.unwrap();
        tx.publish(&User::new("after")).unwrap();
        tx.commit().await.unwrap();
        eventually("it goes on", || async { world.stored().await.len() == 1 }).await;
        relay.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_with_an_open_cancel_is_named() {
    let world = World::<Postgres>::start().await;
    let mut tx = world.outbox.begin().await.unwrap();
    let due = chrono::Utc::now() - chrono::TimeDelta::seconds(5);
    let id = tx.publish_at(&User::new("one"), due).unwrap();
    tx.commit().await.unwrap();
    let mut holder = somebody(&world, "checkout").await;
    let cancel = format!("begin; delete from tidings.delayed where event = '{id}'");
    say(&mut holder, &cancel).await;
    eventually("it is named", || async {
        let status = world.outbox.status().await.unwrap();
        status.held_slots.iter().any(|held| {
            held.slot == "tidings.delayed"
                && held.application.as_deref() == Some("checkout")
                && held.pid.is_some()
                && held
                    .query
                    .as_deref()
                    .is_some_and(|query| query.contains("delete"))
        })
    })
    .await;
    say(&mut holder, "rollback").await;
    assert_eq!(world.outbox.status().await.unwrap().held_slots, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sqlite_file_with_another_writer_is_named() {
    let world = World::<Sqlite>::start().await;
    let writer = world.outbox.begin().await.unwrap();
    let said = refused("unpark", world.outbox.unpark(&ParkedSelection::All)).await;
    assert!(
        said.contains("test.db") && said.contains("write lock"),
        "{said}"
    );
    let discarding = world.outbox.discard(&ParkedSelection::All, 9);
    let said = refused("discard", discarding).await;
    assert!(said.contains("test.db"), "{said}");
    writer.rollback().await.unwrap();
    world.outbox.unpark(&ParkedSelection::All).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sqlite_file_that_cannot_grow_is_reported_as_a_full_disk() {
    let world = World::<Sqlite>::start().await;
    let pages = Sqlite::number(
        world.outbox.pool(),
        "select page_count from pragma_page_count",
    )
    .await;
    let to = (*world.outbox.pool().connect_options()).clone();
    let to = to.pragma("max_page_count", (pages + 4).to_string());
    let pool = SqlitePoolOptions::new().connect_lazy_with(to);
    let outbox = Outbox::new(pool);
    let mut tx = outbox.begin().await.unwrap();
    let large = User {
        email: "x".repeat(100_000),
        ..User::new("large")
    };
    tx.publish(&large).unwrap();
    let Err(OutboxError::Database(error)) = tx.commit().await else {
        panic!("it has grown");
    };
    let diagnosis = error.diagnosis().unwrap();
    assert_eq!(diagnosis.cause, "the disk of the database is full");
    assert!(diagnosis.cure.contains("make room"), "{diagnosis:?}");
}

/// The error of Postgres, without a disk to fill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_reports_a_full_postgres_disk_with_its_cure() {
    log::listen();
    let world = World::<Postgres>::start().await;
    let text = format!("could not extend file {}", uuid::Uuid::now_v7());
    let full = format!(
        "create function full_disk() returns trigger language plpgsql as $$
            begin raise exception '{text}' using errcode = '53100'; end $$;
        create trigger full_disk before update on tidings.relay execute function full_disk()"
    );
    Postgres::execute(world.outbox.pool(), &full).await;
    let relay = world.relay();
    let said = format!("the disk of the database is full: {text} (53100)");
    eventually("it is said", || async { !log::said(&said).is_empty() }).await;
    assert!(!log::said("make room on the disk of Postgres").is_empty());
    relay.kill().await;
}
