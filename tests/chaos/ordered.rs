//! P6: three replicas that handle in the order of each key, while the one that works dies, freezes, loses its
//! link or is replaced.

use crate::{
    effects::Effects,
    handling::Handling,
    support::{Proxy, World},
    table, trials,
    worker::Kind,
};

trials!(
    the_active_replica_is_killed: in short on postgres,
    the_active_replica_is_frozen_for_longer_than_its_lease: in short on postgres,
    the_link_of_the_active_replica_is_cut: in short on sqlite,
    the_link_of_the_active_replica_is_half_open: in short on postgres,
    replicas_are_replaced_one_by_one: in short on sqlite,
);

async fn the_active_replica_is_killed<DB: Effects>(world: World<DB>) {
    let fault = "ordered: SIGKILL of the active of three";
    let mut handling = Handling::with(fault, world, Kind::Ordered, 3).await;
    for _ in 0..table::rounds(6) {
        let active = handling.active().await;
        handling.replicas[active].signal("KILL").await;
        handling.recovers().await;
        handling.goes_on().await;
    }
    handling.judge().await;
}

async fn the_active_replica_is_frozen_for_longer_than_its_lease<DB: Effects>(world: World<DB>) {
    let fault = "ordered: SIGSTOP beyond the lease, then SIGCONT";
    let mut handling = Handling::with(fault, world, Kind::Ordered, 3).await;
    for _ in 0..table::rounds(6) {
        let active = handling.active().await;
        handling.replicas[active].signal("STOP").await;
        // SQLite has one lock for all who write: see the relay's row.
        while !handling.trial.can_commit().await {
            handling.replicas[active].signal("CONT").await;
            handling.replicas[active].signal("STOP").await;
        }
        handling.recovers().await;
        assert_ne!(handling.active().await, active);
        handling.replicas[active].signal("CONT").await;
        handling.goes_on().await;
    }
    handling.judge().await;
}

/// Three replicas, each behind a proxy of its own.
async fn behind_proxies<DB: Effects>(
    fault: &'static str,
    world: World<DB>,
) -> (Handling<DB>, Vec<Proxy>) {
    let mut handling = Handling::begin(fault, world, Kind::Ordered).await;
    let mut proxies = Vec::new();
    for _ in 0..3 {
        let proxy = Proxy::to(handling.trial.world.nats.port()).await;
        let nats = format!("nats://127.0.0.1:{}", proxy.port);
        handling.add(nats, handling.trial.database_url());
        proxies.push(proxy);
    }
    handling.flows().await;
    (handling, proxies)
}

async fn the_link_of_the_active_replica_is_cut<DB: Effects>(world: World<DB>) {
    let fault = "ordered: link of the active cut, then mended";
    let (mut handling, proxies) = behind_proxies(fault, world).await;
    for _ in 0..table::rounds(6) {
        let active = handling.active().await;
        proxies[active].cut();
        handling.recovers().await;
        handling.goes_on().await;
        proxies[active].mend();
        handling.goes_on().await;
    }
    handling.judge().await;
}

async fn the_link_of_the_active_replica_is_half_open<DB: Effects>(world: World<DB>) {
    let fault = "ordered: link of the active half open";
    let (mut handling, proxies) = behind_proxies(fault, world).await;
    for _ in 0..table::rounds(6) {
        let active = handling.active().await;
        proxies[active].silence();
        handling.recovers().await;
        handling.goes_on().await;
    }
    handling.judge().await;
}

async fn replicas_are_replaced_one_by_one<DB: Effects>(world: World<DB>) {
    let fault = "ordered: rolling restarts of three";
    let mut handling = Handling::with(fault, world, Kind::Ordered, 3).await;
    for _ in 0..table::rounds(4) {
        for replica in 0..3 {
            handling.replicas[replica].signal("TERM").await;
            handling.recovers().await;
            handling.goes_on().await;
        }
    }
    handling.judge().await;
}
