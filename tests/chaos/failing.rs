//! P7: handlers that fail while workers die: every event ends as an effect or as a dead letter.

use crate::{effects::Effects, handling::Handling, support::World, table, trials, worker::Kind};

trials!(
    handlers_that_fail_while_a_worker_is_killed: in short on sqlite,
);

async fn handlers_that_fail_while_a_worker_is_killed<DB: Effects>(world: World<DB>) {
    let fault = "retries: 20 % fail, worker SIGKILL in a loop";
    let mut handling = Handling::with(fault, world, Kind::Failing, 2).await;
    for round in 0..table::rounds(12) {
        handling.goes_on().await;
        handling.replicas[round % 2].signal("KILL").await;
        handling.recovers().await;
    }
    handling.judge().await;
}
