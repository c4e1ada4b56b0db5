//! Streams that have lost confirmed events, and faults while these are republished: no event stays lost, and none is
//! stored twice. Services write and the relay publishes all the time.

use sqlx::{Postgres, Sqlite};

use crate::{
    process::Process,
    support::{Past, World, events_stream, eventually},
    table,
    trial::{Chaos, Trial},
    trials,
};

trials!(
    a_killed_nats_server_during_a_repair: in short on postgres,
    a_killed_repair: in short on sqlite,
);

/// Slow enough that the fault happens while the command runs.
const SLOWLY: [&str; 5] = ["outbox", "republish", "--from", "0", "--rate=60/s"];

/// Services have written, and the stream that stored the events is gone; there is a new one, and services continue.
async fn with_a_new_stream<DB: Chaos>(
    fault: &'static str,
    world: World<DB>,
) -> (Trial<DB>, Process) {
    let mut trial = Trial::begin(fault, world).await;
    let relay = trial.relay();
    trial.flows().await;
    trial.goes_on().await;
    trial.still().await;
    let jetstream = trial.world.jetstream().await;
    jetstream.delete_stream("EVENTS").await.unwrap();
    trial
        .world
        .bus
        .apply_stream(&events_stream())
        .await
        .unwrap();
    trial.write();
    trial.flows().await;
    (trial, relay)
}

/// Waits until some of the lost events are back.
async fn is_on_its_way<DB: Chaos>(trial: &Trial<DB>, events: usize) {
    eventually("a part is back", || async {
        let stored = trial.world.stored().await;
        let is_back = |header: &str| !header.is_empty();
        let back = stored
            .0
            .iter()
            .map(|message| message.header("tidings-republished"));
        back.filter(|header| is_back(header)).count() >= events
    })
    .await;
}

/// A comparison finds what the interrupted repair has left, and nothing is missing afterwards.
async fn is_made_whole<DB: Chaos>(trial: &Trial<DB>) {
    let repair = trial.command(&["verify", "--repair"]);
    assert_eq!(repair.ended().await, Some(0));
    let status = trial.world.outbox.status().await.unwrap();
    assert_eq!(status.losses, []);
}

async fn a_killed_nats_server_during_a_repair<DB: Chaos>(world: World<DB>) {
    let fault = "repair: nats-server SIGKILL and restart";
    let (mut trial, _relay) = with_a_new_stream(fault, world).await;
    let repair = trial.command(&SLOWLY);
    for round in 1..=table::rounds(4) {
        is_on_its_way(&trial, 15 * round).await;
        trial.world.nats.kill().unwrap();
        trial.goes_on().await;
        trial.world.nats.restart().await.unwrap();
        trial.recovers().await;
    }
    assert_eq!(repair.ended().await, Some(0));
    is_made_whole(&trial).await;
    trial.judge_but_order().await;
}

async fn a_killed_repair<DB: Chaos>(world: World<DB>) {
    let fault = "repair: SIGKILL, then run again";
    let (mut trial, _relay) = with_a_new_stream(fault, world).await;
    for round in 1..=table::rounds(4) {
        let repair = trial.command(&SLOWLY);
        is_on_its_way(&trial, 15 * round).await;
        repair.kill().await;
    }
    trial.recovers().await;
    is_made_whole(&trial).await;
    trial.judge_but_order().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_the_store_on_postgres() {
    if table::has_time_for("postgres", "sqlite") {
        an_older_copy_of_the_store::<Postgres>().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_the_store_on_sqlite() {
    an_older_copy_of_the_store::<Sqlite>().await;
}

/// The copy is put back while services write and the relay publishes.
async fn an_older_copy_of_the_store<DB: Chaos>() {
    let (world, past) = Past::world::<DB>().await;
    let mut trial = Trial::begin("store: an older copy is put back, then repaired", world).await;
    let _relay = trial.relay();
    trial.flows().await;
    past.keep(&trial.world.nats).await;
    trial.flows().await;
    trial.goes_on().await;
    past.put_back(&trial.world.nats).await;
    trial.recovers().await;
    eventually("the loss is told", || async {
        let status = trial.world.outbox.status().await;
        status.is_ok_and(|status| !status.losses.is_empty())
    })
    .await;
    is_made_whole(&trial).await;
    trial.judge_but_order().await;
}
