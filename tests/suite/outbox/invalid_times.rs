//! P2, P9: an invalid time that was written into a row holds up that row alone.

use std::sync::Arc;

use sqlx::{PgPool, Postgres, Sqlite};
use tidings::{
    Outbox,
    outbox::ParkedSelection,
    trace::{Trace, TraceTarget},
};
use tidings_test_servers::PostgresServer;

use crate::support::{Database, User, World, eventually};

/// Checks that status, lists and trace work, and that an event that is committed now is published.
async fn nothing_is_blocked<DB: Database>(world: &World<DB>, what: &str) {
    let before = world.stored().await.len();
    let relay = world.relay();
    world.commit("after").await;
    eventually(what, || async { world.stored().await.len() > before }).await;
    let status = world.outbox.status().await;
    let status = status.unwrap_or_else(|error| panic!("{what}: {error:?}"));
    for seconds in [
        status.oldest_unpublished_seconds,
        status.oldest_undecided_seconds,
        status.next_due_seconds,
    ] {
        assert!(seconds.is_none_or(f64::is_finite), "{what}: {status:?}");
    }
    world.outbox.delayed(None, 9).await.unwrap();
    world
        .outbox
        .parked(&ParkedSelection::All, i64::MIN, 9)
        .await
        .unwrap();
    let trace = Trace::new(&world.bus).outbox(&world.outbox);
    let trace = trace.streams(["EVENTS"]);
    for sought in ["hostile", "after"] {
        let found = trace.run(&TraceTarget::Key(sought.to_owned())).await;
        found.unwrap_or_else(|error| panic!("{what}: {error:?}"));
    }
    relay.stop().await.unwrap();
}

async fn postgres(major: u16) -> World<Postgres> {
    let options = PostgresServer::options().fsync(false).major(major);
    let server = options.start().await.unwrap();
    server.create_database("times").await.unwrap();
    let pool = PgPool::connect(&server.url_of("times")).await.unwrap();
    World::of(Outbox::new(pool), Arc::new(server)).await
}

async fn infinite_times_block_nothing(major: u16) {
    let world = postgres(major).await;
    let pool = world.outbox.pool();
    for due in ["262142-12-31", "4713-01-01 BC"] {
        let delayed = format!(
            "insert into tidings.delayed (event, due, name, key, payload)
             values (gen_random_uuid(), '{due}', 'user.created', 'hostile', '{{}}')"
        );
        Postgres::execute(pool, &delayed).await;
        nothing_is_blocked(&world, &format!("a delayed event that is due {due}")).await;
        Postgres::execute(pool, "delete from tidings.delayed").await;
    }
    for at in ["infinity", "-infinity", "4713-01-01 BC"] {
        for (blocked_on, unpark_requested_at) in [
            ("null", "null"),
            ("'stream OTHER'", "null"),
            ("null", "now()"),
        ] {
            let parked = format!(
                "insert into tidings.parked (event, created_at, id, name, version, key, headers, payload, error, blocked_on, unpark_requested_at)
                 values (gen_random_uuid(), '{at}', -7, 'user.CREATED', 1, 'hostile', '{{}}', '{{}}', 'by hand', {blocked_on}, {unpark_requested_at})"
            );
            Postgres::execute(pool, &parked).await;
            nothing_is_blocked(&world, &format!("a parked event of {at}, {blocked_on}")).await;
            Postgres::execute(pool, "delete from tidings.parked").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn infinite_times_block_nothing_on_postgres_16() {
    infinite_times_block_nothing(16).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn infinite_times_block_nothing_on_postgres_18() {
    infinite_times_block_nothing(18).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_event_with_an_invalid_time_is_parked_on_sqlite() {
    let world = World::<Sqlite>::start().await;
    let pool = world.outbox.pool();
    for due in ["'soon'", "x'00'", "9e999"] {
        let delayed = format!(
            "pragma ignore_check_constraints = on;
             insert into tidings_delayed (event, due, name, key, payload)
             values (randomblob(16), {due}, 'user.created', 'hostile', x'7b7d');
             pragma ignore_check_constraints = off"
        );
        Sqlite::execute(pool, &delayed).await;
        let relay = world.relay();
        // Another event that is due makes the relay look at it.
        let mut tx = world.outbox.begin().await.unwrap();
        tx.publish_at(&User::new("due"), chrono::Utc::now())
            .unwrap();
        tx.commit().await.unwrap();
        eventually("it is parked", || async { world.parked().await == 1 }).await;
        relay.stop().await.unwrap();
        nothing_is_blocked(&world, due).await;
        let discarded = world.outbox.discard(&ParkedSelection::All, 9).await;
        assert_eq!(discarded.unwrap().len(), 1);
    }
}
