//! P7: handlers that fail while workers and nats-servers die: every event ends as an effect or as a dead letter.

use std::sync::Arc;

use crate::{effects::Effects, handling::Handling, support::World, table, trials, worker::Kind};

trials!(
    handlers_that_fail_while_a_worker_is_killed: in short on none,
    handlers_that_fail_while_the_nats_server_is_killed: in short on sqlite,
    handlers_that_fail_randomly_while_the_nats_server_is_killed: in short on none,
);

async fn handlers_that_fail_while_a_worker_is_killed<DB: Effects>(world: World<DB>) {
    let fault = "retries: 20 % fail, worker SIGKILL in a loop";
    let mut handling = Handling::with(fault, world, Kind::Failing, 2).await;
    for round in 0..table::rounds(12) {
        handling.goes_on().await;
        handling.instances[round % 2].signal("KILL").await;
        handling.recovers().await;
    }
    handling.judge().await;
}

async fn handlers_that_fail_while_the_nats_server_is_killed<DB: Effects>(world: World<DB>) {
    let fault = "retries: 20 % fail, nats-server SIGKILL";
    kill_the_nats_server(Handling::with(fault, world, Kind::Failing, 2).await).await;
}

/// When the ack of a last, failed attempt is lost, the event is redelivered and would succeed. An effect and a dead
/// letter of the same event count as duplicated.
async fn handlers_that_fail_randomly_while_the_nats_server_is_killed<DB: Effects>(
    world: World<DB>,
) {
    let fault = "retries: the same, failing at random";
    kill_the_nats_server(Handling::with(fault, world, Kind::Random, 2).await).await;
}

async fn kill_the_nats_server<DB: Effects>(mut handling: Handling<DB>) {
    let nats = Arc::clone(&handling.trial.world.nats);
    for _ in 0..table::rounds(12) {
        handling.goes_on().await;
        nats.kill().unwrap();
        nats.restart().await.unwrap();
        handling.recovers().await;
    }
    handling.judge().await;
}
