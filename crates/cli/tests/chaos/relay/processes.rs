//! Relays that die, freeze, stop, or are stopped at any point.

use std::time::Duration;

use tidings::{StreamSpec, event::Pattern, testing::failpoint::Point};

use crate::{
    support::{World, within},
    table,
    trial::{Chaos, Trial},
    trials,
};

trials!(
    a_killed_relay: in short on postgres,
    a_relay_that_is_frozen_for_longer_than_its_lease: in short on sqlite,
    a_relay_that_is_stopped: in short on postgres,
    a_relay_that_dies_at_every_point: in short on sqlite,
);

async fn a_killed_relay<DB: Chaos>(world: World<DB>) {
    let mut trial = Trial::begin("relay: SIGKILL, a stand-by takes over", world).await;
    let owner = trial.relay();
    trial.owns(&owner).await;
    let stand_by = trial.relay();
    trial.flows().await;

    owner.kill().await;

    trial.recovers().await;
    trial.owns(&stand_by).await;
    trial.judge().await;
}

async fn a_relay_that_is_frozen_for_longer_than_its_lease<DB: Chaos>(world: World<DB>) {
    let mut trial = Trial::begin("relay: SIGSTOP beyond the lease, then SIGCONT", world).await;
    let zombie = trial.relay();
    trial.owns(&zombie).await;
    let stand_by = trial.relay();
    trial.flows().await;

    // SQLite has one lock for all writers: a process that is frozen while it holds the lock blocks all of them.
    zombie.signal("STOP").await;
    while !trial.can_commit().await {
        zombie.signal("CONT").await;
        zombie.signal("STOP").await;
    }
    trial.recovers().await;
    trial.owns(&stand_by).await;
    zombie.signal("CONT").await;

    trial.judge().await;
}

async fn a_relay_that_is_stopped<DB: Chaos>(world: World<DB>) {
    let mut trial = Trial::begin("relay: SIGTERM, a stand-by takes over", world).await;
    let owner = trial.relay();
    trial.owns(&owner).await;
    let stand_by = trial.relay();
    trial.flows().await;

    owner.signal("TERM").await;
    assert_eq!(owner.ended().await, Some(0));

    trial.recovers().await;
    trial.owns(&stand_by).await;
    trial.judge().await;
}

/// The next relay begins after the deduplication window: the server has forgotten the ids.
async fn a_relay_that_dies_at_every_point<DB: Chaos>(world: World<DB>) {
    const WINDOW: Duration = Duration::from_millis(100);
    let subjects = ["user.>", "count.>"].map(|s| Pattern::parse(s).unwrap());
    let mut stream = StreamSpec::new("EVENTS", subjects).unwrap();
    stream.duplicate_window = WINDOW;
    world.bus.apply_stream(&stream).await.unwrap();
    let mut trial = Trial::begin("relay: dies at every point, beyond the window", world).await;
    let rounds = if table::is_long() { 8 } else { 1 };
    for nth in 1..=rounds {
        for point in Point::ALL {
            let (relay, armed) = trial.relay_until(point, nth);
            let relay = trial.world.run_relay(relay);
            within(&format!("{point:?} {nth}"), armed.reached()).await;
            relay.kill().await;
            trial.world.is_taken().await;
            // real time: until the server has forgotten the ids
            tokio::time::sleep(WINDOW + Duration::from_millis(50)).await;
            trial.world.end_the_lease().await;
        }
    }

    let _relay = trial.relay();

    trial.recovers().await;
    trial.judge().await;
}
