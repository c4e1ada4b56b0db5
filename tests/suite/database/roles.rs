//! Postgres roles that do not own the tables: one that only produces, one that only runs a relay.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use sqlx::{
    Postgres,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tidings::{Outbox, Relay};

use crate::support::{Database, User, World, eventually, log};

type Pg = World<Postgres>;

/// The outbox, used by a role.
async fn as_role(world: &Pg, role: &str) -> Outbox<Postgres> {
    let options: PgConnectOptions = (*world.outbox.pool().connect_options()).clone();
    let pool = PgPoolOptions::new().max_connections(5);
    let options = options.options([("role", role)]);
    Outbox::new(pool.connect_with(options).await.unwrap())
}

/// The grants come from the documentation.
async fn grant(world: &Pg) {
    Postgres::execute(
        world.outbox.pool(),
        "create role producer; create role relay",
    )
    .await;
    let document = include_str!("../../../docs/operate/permissions.md");
    let (_, grants) = document
        .split_once("```sql\n-- a role that produces")
        .unwrap();
    let (grants, _) = grants.split_once("```").unwrap();
    Postgres::execute(world.outbox.pool(), &format!("-- {grants}")).await;
}

async fn old_row(world: &Pg) {
    let old = "insert into tidings.outbox (created_at, event, name, key, payload, slot)
        values (now() - interval '7 days', gen_random_uuid(), 'user.created', 'old', '{}',
                (date_part('epoch', clock_timestamp())::bigint / 10800 + 4) % 8)";
    Postgres::execute(world.outbox.pool(), old).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_insert_only_role_produces_and_a_non_owner_relays() {
    let world = Pg::start().await;
    grant(&world).await;
    old_row(&world).await;
    let producer = as_role(&world, "producer").await;
    let mut tx = producer.begin().await.unwrap();
    tx.publish(&User::new("a")).unwrap();
    tx.publish_at(&User::new("b"), Utc::now() + TimeDelta::milliseconds(300))
        .unwrap();
    tx.commit().await.unwrap();
    for more in ["", ", due => now()"] {
        let enqueue = format!(
            "select tidings.enqueue('user.created', 1, 'c', '{{\"id\": \"c\"}}'{more})::text"
        );
        Postgres::word(producer.pool(), &enqueue).await;
    }
    let mut tx = producer.begin().await.unwrap();
    tx.publish(tidings::Envelope::raw("nobody.takes_this", 1, Some("p"), "{}").unwrap())
        .unwrap();
    tx.commit().await.unwrap();

    let relay = Relay::new(as_role(&world, "relay").await).lease(Duration::from_secs(1));
    let relay = world.run_relay(relay);
    eventually(
        "all are stored or parked, and the old one is freed",
        || async {
            let left = "select count(*) from tidings.outbox where key = 'old'";
            world.stored().await.len() == 5
                && world.parked().await == 1
                && Postgres::number(world.outbox.pool(), left).await == 0
        },
    )
    .await;
    relay.stop().await.unwrap();
    let status = as_role(&world, "relay").await.status().await.unwrap();
    let waits = (status.backlog, status.waiting, status.undecided);
    assert_eq!((waits, status.delayed, status.parked), ((1, 1, 0), 0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_role_sets_no_row_id_time_or_transaction() {
    let world = Pg::start().await;
    grant(&world).await;
    let producer = as_role(&world, "producer").await;
    for (column, value) in [
        ("created_at", "'infinity'"),
        ("id", "1"),
        ("xid", "'3'"),
        ("slot", "0"),
    ] {
        let insert = format!(
            "insert into tidings.outbox (event, name, payload, {column})
            values (gen_random_uuid(), 'user.created', '{{}}', {value})"
        );
        let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(insert))
            .execute(producer.pool())
            .await;
        let refused = refused.expect_err(column).to_string();
        assert!(refused.contains("permission denied"), "{column}: {refused}");
    }
    // To check an event against the server's limit, the role needs no extra right.
    let large =
        "select tidings.enqueue('user.created', 1, 'a', to_json(repeat('x', 200000)))::text";
    Postgres::word(producer.pool(), large).await;
    let larger = large.replace("200000", "2000000");
    let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(larger))
        .execute(producer.pool())
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("the limit is 1048576"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_denied_to_free_old_rows_reports_it() {
    log::listen();
    let world = Pg::start().await;
    grant(&world).await;
    let fewer = "revoke update, delete, truncate on all tables in schema tidings from relay;
        grant update, delete on tidings.relay, tidings.delayed, tidings.parked to relay";
    Postgres::execute(world.outbox.pool(), fewer).await;
    old_row(&world).await;
    let relay = world.run_relay(Relay::new(as_role(&world, "relay").await));
    eventually("the log says why", || async {
        let said = log::said("old rows not freed");
        said.iter().any(|line| line.contains("permission denied"))
    })
    .await;
    relay.stop().await.unwrap();
}
