//! A Postgres that dies or freezes.

use std::{sync::Arc, time::Duration};

use sqlx::{Postgres, postgres::PgPoolOptions};
use tidings::Outbox;
use tidings_test_servers::PostgresServer;

use crate::{support::World, table, trial::Trial};

/// A world with a Postgres server of its own.
pub async fn world() -> (Arc<PostgresServer>, World<Postgres>) {
    let options = PostgresServer::options().fsync(false).from_template(true);
    let server = Arc::new(options.start().await.unwrap());
    let pool = PgPoolOptions::new()
        .max_connections(20)
        .acquire_timeout(Duration::from_secs(5))
        .connect(&server.url())
        .await
        .unwrap();
    let world = World::of(Outbox::new(pool), Arc::<PostgresServer>::clone(&server)).await;
    (server, world)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_postgres() {
    let (postgres, world) = world().await;
    let mut trial = Trial::begin("postgres: SIGKILL and restart", world).await;
    let _relay = trial.relay();
    trial.flows().await;
    trial.goes_on().await;

    postgres.kill().unwrap();
    postgres.restart().await.unwrap();

    trial.recovers().await;
    trial.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_postgres() {
    let (postgres, world) = world().await;
    let mut trial = Trial::begin("postgres: SIGSTOP, then SIGCONT", world).await;
    let _relay = trial.relay();
    trial.flows().await;
    trial.goes_on().await;

    postgres.pause().unwrap();
    // real time: longer than the lease
    tokio::time::sleep(Duration::from_secs(if table::is_long() { 12 } else { 2 })).await;
    postgres.resume().unwrap();

    trial.recovers().await;
    trial.judge().await;
}
