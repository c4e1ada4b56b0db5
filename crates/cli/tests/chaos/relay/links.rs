//! Links between the relay and its servers that are cut, half open or slow.

use std::time::Duration;

use sqlx::Postgres;
use tidings::{Bus, NatsOptions};
use tokio_util::sync::CancellationToken;

use crate::{
    process::Process,
    support::{Proxy, World},
    table,
    trial::{Chaos, Trial, postgres_url},
    trials,
};

trials!(
    a_cut_link_to_nats: in short on sqlite,
    a_half_open_link_to_nats: in short on sqlite,
    a_slow_link_to_nats: in short on sqlite,
);

/// A relay that reaches NATS through a proxy.
async fn behind_a_proxy<DB: Chaos>(trial: &Trial<DB>) -> (Proxy, Process) {
    let proxy = Proxy::to(trial.world.nats.port()).await;
    let url = format!("nats://127.0.0.1:{}", proxy.port);
    let relay = Process::relay(&url, &trial.database_url());
    trial.owns(&relay).await;
    trial.flows().await;
    (proxy, relay)
}

async fn a_cut_link_to_nats<DB: Chaos>(world: World<DB>) {
    let mut trial = Trial::begin("link to nats: cut, then mended", world).await;
    let (proxy, _relay) = behind_a_proxy(&trial).await;

    proxy.cut();
    trial.goes_on().await;
    proxy.mend();

    trial.recovers().await;
    trial.judge().await;
}

async fn a_half_open_link_to_nats<DB: Chaos>(world: World<DB>) {
    let mut trial = Trial::begin("link to nats: half open for ever", world).await;
    if table::is_long() {
        let (proxy, _relay) = behind_a_proxy(&trial).await;
        proxy.silence();
        trial.recovers().await;
        return trial.judge().await;
    }
    // The program probes its connection every ten seconds; this relay probes it more often.
    let proxy = Proxy::to(trial.world.nats.port()).await;
    let mut options = NatsOptions::from(format!("nats://127.0.0.1:{}", proxy.port));
    options.ping_interval = Duration::from_millis(300);
    let bus = Bus::connect(options).await.unwrap();
    let relay = trial.world.new_relay().batch(20);
    let _relay = tokio::spawn(relay.run(bus, CancellationToken::new()));
    trial.flows().await;

    proxy.silence();

    trial.recovers().await;
    trial.judge().await;
}

async fn a_slow_link_to_nats<DB: Chaos>(world: World<DB>) {
    let mut trial = Trial::begin("link to nats: 100 ms a packet, then quick", world).await;
    let (proxy, _relay) = behind_a_proxy(&trial).await;

    proxy.slow(Duration::from_millis(100));
    trial.goes_on().await;
    trial.flows().await;
    proxy.slow(Duration::ZERO);

    trial.recovers().await;
    trial.judge().await;
}

/// A relay that reaches Postgres through a proxy.
async fn behind_a_database_proxy(trial: &Trial<Postgres>) -> (Proxy, Process) {
    let options = trial.world.outbox.pool().connect_options();
    let proxy = Proxy::to(options.get_port()).await;
    let url = postgres_url(&options, proxy.port);
    let relay = Process::relay(&trial.world.nats.url(), &url);
    trial.owns(&relay).await;
    trial.flows().await;
    (proxy, relay)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_link_to_postgres() {
    let world = World::start().await;
    let mut trial = Trial::begin("link to postgres: cut, then mended", world).await;
    let (proxy, _relay) = behind_a_database_proxy(&trial).await;

    proxy.cut();
    trial.goes_on().await;
    proxy.mend();

    trial.recovers().await;
    trial.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_link_to_postgres() {
    let world = World::start().await;
    let mut trial = Trial::begin("link to postgres: half open for ever", world).await;
    let (proxy, _relay) = behind_a_database_proxy(&trial).await;

    proxy.silence();

    trial.recovers().await;
    trial.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_link_to_postgres() {
    let world = World::start().await;
    let mut trial = Trial::begin("link to postgres: 100 ms a packet, then quick", world).await;
    let (proxy, _relay) = behind_a_database_proxy(&trial).await;

    proxy.slow(Duration::from_millis(100));
    trial.goes_on().await;
    trial.flows().await;
    proxy.slow(Duration::ZERO);

    trial.recovers().await;
    trial.judge().await;
}
