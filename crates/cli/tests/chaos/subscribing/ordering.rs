//! P6: three instances that handle in order per key, while the active instance dies, freezes, loses its link or is
//! replaced.

use sqlx::Postgres;

use crate::{
    effects::Effects,
    handling::Handling,
    support::{Proxy, World},
    table,
    trial::postgres_url,
    trials,
    worker::Kind,
};

trials!(
    the_active_instance_is_killed: in short on postgres,
    the_active_instance_is_frozen_for_longer_than_its_lease: in short on postgres,
    the_link_of_the_active_instance_is_cut: in short on sqlite,
    the_link_of_the_active_instance_is_half_open: in short on postgres,
    instances_are_replaced_one_by_one: in short on sqlite,
);

async fn the_active_instance_is_killed<DB: Effects>(world: World<DB>) {
    let fault = "ordered: SIGKILL of the active of three";
    let mut handling = Handling::with(fault, world, Kind::Ordered, 3).await;
    for _ in 0..table::rounds(6) {
        let active = handling.active().await;
        handling.instances[active].signal("KILL").await;
        handling.recovers().await;
        handling.goes_on().await;
    }
    handling.judge().await;
}

async fn the_active_instance_is_frozen_for_longer_than_its_lease<DB: Effects>(world: World<DB>) {
    let fault = "ordered: SIGSTOP beyond the lease, then SIGCONT";
    let mut handling = Handling::with(fault, world, Kind::Ordered, 3).await;
    for _ in 0..table::rounds(6) {
        let active = handling.active().await;
        handling.instances[active].signal("STOP").await;
        // SQLite has one lock for all writers: see the same remark in `relay.rs`.
        while !handling.trial.can_commit().await {
            handling.instances[active].signal("CONT").await;
            handling.instances[active].signal("STOP").await;
        }
        handling.recovers().await;
        assert_ne!(handling.active().await, active);
        handling.instances[active].signal("CONT").await;
        handling.goes_on().await;
    }
    handling.judge().await;
}

/// Three instances, each behind a proxy of its own.
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

async fn the_link_of_the_active_instance_is_cut<DB: Effects>(world: World<DB>) {
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

async fn the_link_of_the_active_instance_is_half_open<DB: Effects>(world: World<DB>) {
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

async fn instances_are_replaced_one_by_one<DB: Effects>(world: World<DB>) {
    let fault = "ordered: rolling restarts of three";
    let mut handling = Handling::with(fault, world, Kind::Ordered, 3).await;
    for _ in 0..table::rounds(4) {
        for instance in 0..3 {
            handling.instances[instance].signal("TERM").await;
            handling.recovers().await;
            handling.goes_on().await;
        }
    }
    handling.judge().await;
}

/// Both links of the instance are silent and stay open, as when its host loses power: Postgres keeps the transactions
/// of the instance open, and with them the inbox rows of its deliveries in flight.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_of_the_active_instance_is_lost() {
    let world = World::<Postgres>::start().await;
    let fault = "ordered: host of the active gone, links open";
    let mut handling = Handling::begin(fault, world, Kind::Ordered).await;
    let options = handling.trial.world.outbox.pool().connect_options();
    let mut links = Vec::new();
    for _ in 0..3 {
        let nats = Proxy::to(handling.trial.world.nats.port()).await;
        let database = Proxy::to(options.get_port()).await;
        let url = format!("nats://127.0.0.1:{}", nats.port);
        handling.add(url, postgres_url(&options, database.port));
        links.push([nats, database]);
    }
    handling.flows().await;
    handling.goes_on().await;
    for _ in 0..table::rounds(4) {
        let active = handling.active().await;
        for link in &links[active] {
            link.silence();
        }
        handling.instances[active].signal("KILL").await;
        handling.recovers().await;
        handling.goes_on().await;
    }
    handling.judge().await;
}
