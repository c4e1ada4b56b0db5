//! Three nats-servers, a stream of three replicas, and a leader that dies.

use std::{sync::Arc, time::Duration};

use sqlx::{Postgres, Sqlite};
use tidings::testing::failpoint::Point;

use crate::{
    process::Process,
    support::{Cluster, Database, World, within},
    table,
    trial::{Chaos, Trial},
};

/// The deduplication window: so short that the server has forgotten the ids when there is a new leader.
const WINDOW: Duration = Duration::from_millis(100);

async fn world<DB: Chaos>(cluster: &Cluster) -> World<DB> {
    let bus = cluster.bus().await;
    cluster.apply(&bus, WINDOW).await;
    let node = Arc::clone(&cluster.nodes[0]);
    World::beside(<DB as Database>::open().await, node, bus).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_on_postgres() {
    if table::has_time_for("postgres", "none") {
        a_killed_leader::<Postgres>().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_on_sqlite() {
    if table::has_time_for("sqlite", "none") {
        a_killed_leader::<Sqlite>().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_between_members_and_commit_on_postgres() {
    if table::has_time_for("postgres", "sqlite") {
        a_leader_that_dies_between_members_and_commit::<Postgres>().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_between_members_and_commit_on_sqlite() {
    a_leader_that_dies_between_members_and_commit::<Sqlite>().await;
}

async fn a_killed_leader<DB: Chaos>() {
    let cluster = Cluster::start().await;
    let world = world::<DB>(&cluster).await;
    let mut trial = Trial::on(
        "cluster: the leader of three is killed",
        world,
        cluster.urls(),
    )
    .await;
    let _relay = Process::relay(&cluster.urls().join(","), &trial.database_url());
    trial.flows().await;

    let leader = cluster.leader().await;
    leader.kill().unwrap();

    trial.recovers().await;
    trial.goes_on().await;
    leader.restart().await.unwrap();
    trial.judge().await;
}

async fn a_leader_that_dies_between_members_and_commit<DB: Chaos>() {
    let cluster = Cluster::start().await;
    let world = world::<DB>(&cluster).await;
    let fault = "cluster: the leader dies before a commit";
    let mut trial = Trial::on(fault, world, cluster.urls()).await;
    // Late enough that some rows are confirmed.
    let (relay, armed) = trial.relay_until(Point::MembersSent, 20);
    let _relay = trial.world.run_relay(relay);
    within("members are sent", armed.reached()).await;

    let leader = cluster.leader().await;
    leader.kill().unwrap();
    armed.let_go();

    trial.recovers().await;
    trial.goes_on().await;
    leader.restart().await.unwrap();
    trial.judge().await;
}
