//! P1: an event that another driver enqueues commits with the change or not at all, and is relayed like any other.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use chrono::{TimeDelta, Utc};
use sqlx::{ConnectOptions, Postgres};
use tidings::Enqueue;
use tidings_test_support::{Database, User, World, eventually};
use tokio_postgres::types::ToSql;

/// The URL of a test's database.
fn url(world: &World<Postgres>) -> String {
    let options = world.outbox.pool().connect_options();
    let url = options.to_url_lossy().to_string();
    // Its options are those of sqlx.
    url.split('?').next().unwrap().to_owned()
}

async fn is_relayed(world: &World<Postgres>) {
    let relay = world.relay();
    eventually("the event is stored", || async {
        world.stored().await.len() == 1
    })
    .await;
    relay.stop().await.unwrap();
    let stored = world.stored().await;
    assert_eq!(stored.0[0].subject, "user.created");
    assert_eq!(stored.0[0].json()["id"], "ada");
    assert_eq!(world.outbox.status().await.unwrap().delayed, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokio_postgres_enqueues_in_its_own_transaction() {
    let world = World::<Postgres>::start().await;
    let config: tokio_postgres::Config = url(&world).parse().unwrap();
    let (mut client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let enqueue = Enqueue::postgres();
    for (id, commits) in [("lost", false), ("ada", true)] {
        let tx = client.transaction().await.unwrap();
        let now = enqueue.statement(&User::new(id)).unwrap();
        let later = Utc::now() + TimeDelta::hours(1);
        let later = enqueue.statement_at(&User::new(id), later).unwrap();
        for insert in [now, later] {
            let (event, payload) = (insert.event.as_uuid(), &insert.payload[..]);
            let mut values: Vec<&(dyn ToSql + Sync)> = vec![
                &event,
                &insert.name,
                &insert.version,
                &insert.key,
                &insert.headers,
                &payload,
            ];
            values.extend(insert.due.as_ref().map(|due| due as &(dyn ToSql + Sync)));
            assert_eq!(tx.execute(&*insert.sql, &values).await.unwrap(), 1);
        }
        match commits {
            true => tx.commit().await.unwrap(),
            false => tx.rollback().await.unwrap(),
        }
    }
    drop(client);
    connection.await.unwrap().unwrap();
    is_relayed(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_sqlx_enqueues_in_its_own_transaction() {
    let world = World::<Postgres>::start().await;
    let pool = older_sqlx::PgPool::connect(&url(&world)).await.unwrap();
    let enqueue = Enqueue::postgres();
    for (id, commits) in [("lost", false), ("ada", true)] {
        let mut tx = pool.begin().await.unwrap();
        let now = enqueue.statement(&User::new(id)).unwrap();
        let later = Utc::now() + TimeDelta::hours(1);
        let later = enqueue.statement_at(&User::new(id), later).unwrap();
        for insert in [now, later] {
            let mut query = older_sqlx::query(&insert.sql)
                .bind(insert.event.as_uuid())
                .bind(&insert.name)
                .bind(insert.version)
                .bind(&insert.key)
                .bind(&insert.headers)
                .bind(&insert.payload[..]);
            if let Some(due) = insert.due {
                query = query.bind(due);
            }
            query.execute(&mut *tx).await.unwrap();
        }
        match commits {
            true => tx.commit().await.unwrap(),
            false => tx.rollback().await.unwrap(),
        }
    }
    pool.close().await;
    is_relayed(&world).await;
}

/// The database checks what the statement cannot know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_runs_again_delays_the_event_once() {
    let world = World::<Postgres>::start().await;
    let pool = world.outbox.pool();
    let due = Utc::now() + TimeDelta::hours(1);
    let insert = Enqueue::postgres()
        .statement_at(&User::new("ada"), due)
        .unwrap();
    let run = async || {
        let query = sqlx::query(sqlx::AssertSqlSafe(insert.sql.clone()))
            .bind(insert.event.as_uuid())
            .bind(&insert.name)
            .bind(insert.version)
            .bind(&insert.key)
            .bind(&insert.headers)
            .bind(&insert.payload[..])
            .bind(insert.due);
        query.execute(pool).await
    };
    run().await.unwrap();
    let again = run().await.unwrap_err();
    assert!(again.as_database_error().unwrap().is_unique_violation());
    let delayed = Postgres::number(pool, "select count(*) from tidings.delayed").await;
    assert_eq!(delayed, 1);
}
