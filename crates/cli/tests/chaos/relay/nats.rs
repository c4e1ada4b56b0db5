//! A nats-server that dies, freezes or is full, and a stream that is full or deleted.

use std::time::Duration;

use async_nats::jetstream;
use sqlx::{Postgres, Sqlite};
use tidings::nats::Plan;
use tidings_test_servers::NatsServer;

use crate::{
    support::{Database, World, events_stream, eventually},
    table,
    trial::{Chaos, Trial},
    trials,
};

trials!(
    a_killed_nats_server: in short on postgres,
    a_frozen_nats_server: in short on sqlite,
    a_full_stream: in short on sqlite,
    a_stream_that_is_deleted_and_recreated: in short on postgres,
);

async fn a_killed_nats_server<DB: Chaos>(world: World<DB>) {
    let mut trial = Trial::begin("nats-server: SIGKILL and restart", world).await;
    let _relay = trial.relay();
    trial.flows().await;

    trial.world.nats.kill().unwrap();
    trial.goes_on().await;
    trial.world.nats.restart().await.unwrap();

    trial.recovers().await;
    trial.judge().await;
}

async fn a_frozen_nats_server<DB: Chaos>(world: World<DB>) {
    let mut trial = Trial::begin("nats-server: SIGSTOP, then SIGCONT", world).await;
    let _relay = trial.relay();
    trial.flows().await;

    trial.world.nats.pause().unwrap();
    trial.goes_on().await;
    // real time: longer than the lease, and in the long form longer than the timeout of an answer
    tokio::time::sleep(Duration::from_secs(if table::is_long() { 12 } else { 2 })).await;
    trial.world.nats.resume().unwrap();

    trial.recovers().await;
    trial.judge().await;
}

async fn a_full_stream<DB: Chaos>(world: World<DB>) {
    let mut trial = Trial::begin("stream: full (discard new), then more room", world).await;
    let _relay = trial.relay();
    trial.flows().await;

    let mut full = events_stream();
    full.max_bytes = Some(1000);
    trial.world.bus.apply_stream(&full).await.unwrap();
    refused(&trial).await;
    let plan = trial.world.bus.apply_stream(&events_stream()).await;
    assert!(matches!(plan, Ok(Plan::Update(_))));

    trial.recovers().await;
    trial.judge().await;
}

/// The stream stores no new event while services continue to write.
async fn refused<DB: Chaos>(trial: &Trial<DB>) {
    let nothing_new = async || {
        let before = trial.world.stored().await.len();
        trial.goes_on().await;
        trial.world.stored().await.len() == before
    };
    eventually("nothing new is stored", nothing_new).await;
}

/// The events in the stream are lost with it: the operator must restore them. All other events are in the new stream.
async fn a_stream_that_is_deleted_and_recreated<DB: Chaos>(world: World<DB>) {
    let mut trial = Trial::begin("stream: deleted, then created anew", world).await;
    let _relay = trial.relay();
    trial.flows().await;
    trial.goes_on().await;
    trial.still().await;

    let client = async_nats::connect(trial.world.nats.url()).await.unwrap();
    let jetstream = jetstream::new(client);
    jetstream.delete_stream("EVENTS").await.unwrap();
    DB::execute(trial.world.outbox.pool(), "delete from journal").await;
    trial.write();
    trial.goes_on().await;
    let anew = trial.world.bus.apply_stream(&events_stream()).await;
    assert_eq!(anew.unwrap(), Plan::Create);

    trial.recovers().await;
    trial.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_on_postgres() {
    if table::has_time_for("postgres", "sqlite") {
        a_full_disk(World::with(Postgres::open().await, small_disk().await).await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_on_sqlite() {
    a_full_disk(World::with(Sqlite::open().await, small_disk().await).await).await;
}

async fn small_disk() -> NatsServer {
    let options = NatsServer::options().max_file(16 << 20);
    options.start().await.unwrap()
}

async fn a_full_disk<DB: Chaos>(world: World<DB>) {
    let mut trial = Trial::begin("disk: full, then room is made", world).await;
    let _relay = trial.relay();
    trial.flows().await;

    let client = async_nats::connect(trial.world.nats.url()).await.unwrap();
    let jetstream = jetstream::new(client);
    let config = jetstream::stream::Config {
        name: "OTHERS".into(),
        ..Default::default()
    };
    jetstream.create_stream(config).await.unwrap();
    for bytes in [512 << 10, 8 << 10, 100] {
        while let Ok(sent) = jetstream.publish("OTHERS", vec![0; bytes].into()).await
            && sent.await.is_ok()
        {}
    }
    refused(&trial).await;
    jetstream.delete_stream("OTHERS").await.unwrap();

    trial.recovers().await;
    trial.judge().await;
}
