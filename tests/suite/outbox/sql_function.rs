//! Events from any language: the SQL function of the Postgres outbox, and the guarantees of its tables.

use sqlx::Postgres;
use tidings::{Context, EventSubscriber, Failure, Worker};

use crate::support::{Database, Noted, User, World, eventually};

type Pg = World<Postgres>;

#[tokio::test(flavor = "multi_thread")]
async fn the_sql_function_enqueues_in_the_callers_transaction() {
    let world = Pg::start().await;
    let pool = world.outbox.pool();
    let relay = world.relay();
    let enqueue = "select tidings.enqueue('user.created', 1, 'ada', '{\"id\": \"ada\", \"email\": \"a@x\"}', '{\"tenant\": \"acme\"}')";
    Postgres::execute(pool, &format!("begin; {enqueue}; rollback")).await;
    let id = Postgres::word(
        pool,
        &enqueue
            .replace("select ", "select text(")
            .replacen("')", "'))", 1)
            .replace("')))", "'))"),
    )
    .await;
    eventually("it is stored", || async { world.stored().await.len() == 1 }).await;
    relay.stop().await.unwrap();
    let stored = world.stored().await;
    let message = &stored.0[0];
    assert_eq!(message.header("ce-id"), id);
    assert_eq!(message.header("tenant"), "acme");
    assert_eq!(message.header("ce-partitionkey"), "ada");
    assert_eq!(message.json()["email"], "a@x");
    let uuid: uuid::Uuid = id.parse().unwrap();
    assert_eq!(uuid.get_version_num(), 7);
    assert_eq!(uuid.get_variant(), uuid::Variant::RFC4122);
}

async fn note_trace(_: User, cx: Context<Noted>) -> Result<(), Failure> {
    let trace = cx.envelope().lineage().trace_id().unwrap_or_default();
    cx.state().note(format!("{trace} {}", cx.correlation_id()));
    Ok(())
}

/// P7: a trace that begins in SQL reaches the handler, whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_trace_context_from_sql_reaches_the_handler() {
    let world = Pg::start().await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    let enqueue = format!(
        "select tidings.enqueue('user.created', 1, 'ada', '{{\"id\": \"ada\", \"email\": \"a@x\"}}', headers =>
            '{{\"traceparent\": \"{parent}\", \"tracestate\": \"vendor=7\", \"ce-correlationid\": \"order-7\"}}')"
    );
    Postgres::execute(world.outbox.pool(), &enqueue).await;
    let noted = Noted::default();
    let subscriber = EventSubscriber::durable("welcome").on(note_trace);
    let worker = Worker::new(world.bus.clone(), noted.clone()).subscribe(subscriber);
    let (relay, worker) = (world.relay(), world.run(worker));
    noted.reach(1).await;
    relay.stop().await.unwrap();
    worker.stop().await.unwrap();
    assert_eq!(noted.all(), [format!("{trace} order-7")]);
    let message = &world.stored().await.0[0];
    assert_eq!(message.header("traceparent"), parent);
    assert_eq!(message.header("tracestate"), "vendor=7");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sql_function_refuses_what_publish_refuses_and_says_why() {
    let world = Pg::start().await;
    let refused = [
        ("'User', 1, 'a', '{}'", "is not an event name"),
        ("'tidings.wake', 1, 'a', '{}'", "is not an event name"),
        ("null, 1, 'a', '{}'", "is not an event name"),
        ("'user.created', 0, 'a', '{}'", "is not a version"),
        ("'user.created', 1, '', '{}'", "the key"),
        ("'user.created', 1, E'a\\nb', '{}'", "the key"),
        ("'user.created', 1, 'a', null", "no payload"),
        (
            "'user.created', 1, 'a', '{}', '[1]'",
            "not an object of texts",
        ),
        (
            "'user.created', 1, 'a', '{}', '{\"a\": 1}'",
            "not an object of texts",
        ),
    ];
    for (arguments, expected) in refused {
        let sql = format!("select tidings.enqueue({arguments})");
        let error = sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(world.outbox.pool())
            .await
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{arguments}: {error}");
    }
    assert_eq!(world.outbox.status().await.unwrap().backlog, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_append_only_and_old_slots_are_truncated() {
    let world = Pg::start().await;
    let pool = world.outbox.pool();
    let relay = world.relay();
    for id in 0..50 {
        let sql = format!("select tidings.enqueue('user.created', 1, '{id}', '{{}}')");
        Postgres::execute(pool, &sql).await;
    }
    eventually("all are stored", || async {
        world.stored().await.len() == 50
    })
    .await;
    relay.stop().await.unwrap();
    // The statistics of the test's own connection are written with a delay; this asks the server to write them now.
    let dead = "select pg_stat_force_next_flush()::text";
    let _ = Postgres::word(pool, &format!("select coalesce(({dead}), '')")).await;
    let touched = "select coalesce(sum(n_tup_upd + n_tup_del), 0)::bigint from pg_stat_user_tables
        where relname like 'outbox_%'";
    assert_eq!(Postgres::number(pool, touched).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_name_that_postgres_reserves_is_refused() {
    let world = Pg::start().await;
    let pool = world.outbox.pool();
    let reserved =
        "select string_agg(word, ' ') from pg_get_keywords() where catcode in ('R', 'T')";
    let reserved = Postgres::word(pool, reserved).await;
    assert!(reserved.contains("user"));
    for word in reserved.split(' ').chain(["pg_shop"]) {
        let refused = world.outbox.clone().in_schema(word);
        let refused = refused.expect_err(word).to_string();
        assert!(refused.contains("no reserved word of SQL"), "{refused}");
    }
    // A word that Postgres knows and does not reserve.
    let outbox = world.outbox.clone().in_schema("schema").unwrap();
    outbox.migrate().await.unwrap();
    outbox.status().await.unwrap();
}
