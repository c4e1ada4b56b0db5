//! Work that runs beside the subscribers of a worker, such as the relay. Contains only the contract.

use std::error::Error;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::{nats::Bus, process::Process};

/// Work that runs for as long as the worker.
pub trait Background: Send + 'static {
    /// The name in logs and errors, such as `relay`.
    fn name(&self) -> String;

    /// Is given the process of the worker, before anything runs. By default it makes no use of it.
    fn join(&mut self, process: &Process) {
        let _ = process;
    }

    /// Whether it asks NATS. Then it runs on a connection of its own, so that it does not share the fate of the worker's:
    /// a message that a client cannot read ends its connection for all who use it.
    fn asks_nats(&self) -> bool {
        true
    }

    /// Runs until `stop` is cancelled, then finishes what is in flight and returns. The work recovers from temporary
    /// failures by itself. An error means that it can never run with its configuration; it ends the worker.
    fn run(
        self: Box<Self>,
        bus: Bus,
        stop: CancellationToken,
    ) -> BoxFuture<'static, Result<(), Box<dyn Error + Send + Sync>>>;
}
