//! A relay: it is ready while events move or another one has the lease, and tells what stops it.

use std::time::{Duration, Instant};

use tidings::Worker;

use super::endpoints;
use crate::{
    both,
    support::{Database, User, World},
};

both!(
    a_relay_at_a_frozen_nats_is_not_ready_until_it_answers,
    a_standby_is_ready_and_takes_over,
    tables_of_another_version_are_refused,
);

async fn a_relay_at_a_frozen_nats_is_not_ready_until_it_answers<DB: Database>(world: World<DB>) {
    let (ops, endpoints) = endpoints();
    let worker = Worker::new(world.bus.clone(), ()).with(ops);
    let running = world.run(worker.with(world.new_relay()));
    endpoints.says("/readyz", 200, "relay tidings: idle").await;
    world.commit_all([&User::new("ada")]).await;
    world.backlog_is_gone().await;

    world.nats.pause().unwrap();
    let frozen = Instant::now();
    let users: Vec<_> = (0..9).map(|n| User::new(&n.to_string())).collect();
    world.commit_all(&users).await;
    let answer = endpoints.says("/readyz/relay", 503, "stuck").await;
    let took = frozen.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}: {answer:?}");
    assert!(answer.text.contains("; try: "), "{answer:?}");
    let relay = endpoints.component("relay").await;
    assert_eq!(relay["status"], "stuck", "{relay}");
    assert_eq!(relay["ready"], false, "{relay}");
    assert!(
        relay["cure"].is_string() && relay["for_s"].is_u64(),
        "{relay}"
    );
    let alive = endpoints.ask("/livez").await;
    assert_eq!(alive.status, 200, "NATS has no bearing on it: {alive:?}");
    let started = endpoints.ask("/readyz?of=startup").await;
    assert_eq!(started.status, 200, "it has started: {started:?}");

    world.nats.resume().unwrap();
    endpoints.says("/readyz", 200, "relay tidings: idle").await;
    assert_eq!(endpoints.health().await["status"], "ok");
    assert_eq!(world.stored().await.len(), 10);
    running.stop().await.unwrap();
}

async fn a_standby_is_ready_and_takes_over<DB: Database>(world: World<DB>) {
    let (active, of_active) = endpoints();
    let worker = Worker::new(world.bus.clone(), ()).with(active);
    let first = world.run(worker.with(world.new_relay()));
    of_active.says("/readyz/relay", 200, "idle").await;
    let (standby, of_standby) = endpoints();
    let worker = Worker::new(world.bus.clone(), ()).with(standby);
    let second = world.run(worker.with(world.new_relay()));
    of_standby.says("/readyz/relay", 200, "standby").await;
    assert_eq!(of_standby.health().await["status"], "ok");

    first.stop().await.unwrap();
    of_standby.says("/readyz/relay", 200, "idle").await;
    assert!(
        of_active.ask_as("localhost", "/livez").await.is_none(),
        "the endpoints end with their worker"
    );
    second.stop().await.unwrap();
}

async fn tables_of_another_version_are_refused<DB: Database>(world: World<DB>) {
    let (ops, endpoints) = endpoints();
    let worker = Worker::new(world.bus.clone(), ()).with(ops);
    let running = world.run(worker.with(world.new_relay()));
    endpoints.says("/readyz/relay", 200, "idle").await;
    let migration = DB::table("migration");
    let newer = format!("insert into {migration} (version, name) values (99, '0099_later')");
    DB::execute(world.outbox.pool(), &newer).await;
    let refused = endpoints.says("/readyz/relay", 503, "refused").await;
    assert!(refused.text.contains("newer"), "{refused:?}");
    let started = endpoints.ask("/readyz?of=startup").await;
    assert_eq!(started.status, 503, "{started:?}");
    let newer = format!("delete from {migration} where version = 99");
    DB::execute(world.outbox.pool(), &newer).await;
    endpoints.says("/readyz/relay", 200, "idle").await;
    running.stop().await.unwrap();
}
