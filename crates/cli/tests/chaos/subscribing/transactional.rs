//! P5: handlers whose effect happens once, while workers, nats-servers and databases are killed repeatedly.

use sqlx::Postgres;

use crate::{
    effects::Effects, handling::Handling, relay::postgres, support::World, table, trials,
    worker::Kind,
};

trials!(
    a_worker_that_is_killed_repeatedly: in short on sqlite,
    a_nats_server_that_is_killed_repeatedly: in short on sqlite,
);

async fn kill_a_worker<DB: Effects>(handling: &mut Handling<DB>) {
    handling.instances[0].signal("KILL").await;
    handling.recovers().await;
    handling.goes_on().await;
}

async fn kill_the_nats_server<DB: Effects>(handling: &mut Handling<DB>) {
    let nats = std::sync::Arc::clone(&handling.trial.world.nats);
    nats.kill().unwrap();
    nats.restart().await.unwrap();
    handling.recovers().await;
    handling.goes_on().await;
}

async fn a_worker_that_is_killed_repeatedly<DB: Effects>(world: World<DB>) {
    let fault = "once: worker SIGKILL, again and again";
    let mut handling = Handling::with(fault, world, Kind::Once, 1).await;
    for _ in 0..table::rounds(12) {
        kill_a_worker(&mut handling).await;
    }
    handling.judge().await;
}

async fn a_nats_server_that_is_killed_repeatedly<DB: Effects>(world: World<DB>) {
    let fault = "once: nats-server SIGKILL, again and again";
    let mut handling = Handling::with(fault, world, Kind::Once, 2).await;
    for _ in 0..table::rounds(12) {
        kill_the_nats_server(&mut handling).await;
    }
    handling.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_is_killed_repeatedly() {
    let (postgres, world) = postgres::world().await;
    let fault = "once: postgres SIGKILL, again and again";
    let mut handling = Handling::<Postgres>::with(fault, world, Kind::Once, 2).await;
    for _ in 0..table::rounds(8) {
        postgres.kill().unwrap();
        postgres.restart().await.unwrap();
        handling.recovers().await;
        handling.goes_on().await;
    }
    handling.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_three_are_killed_one_after_another() {
    let (postgres, world) = postgres::world().await;
    let fault = "once: worker, nats-server, postgres in turn";
    let mut handling = Handling::<Postgres>::with(fault, world, Kind::Once, 2).await;
    for _ in 0..table::rounds(5) {
        kill_a_worker(&mut handling).await;
        kill_the_nats_server(&mut handling).await;
        postgres.kill().unwrap();
        postgres.restart().await.unwrap();
        handling.recovers().await;
        handling.goes_on().await;
    }
    handling.judge().await;
}
