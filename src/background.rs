//! What runs beside the subscribers of a worker, such as the relay. Only the contract stands here.

use std::error::Error;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::bus::Bus;

/// Work that lasts as long as the worker.
pub trait Background: Send + 'static {
    /// The name in the log and in errors, such as `relay`.
    fn name(&self) -> String;

    /// Runs until `stop` is cancelled, then finishes what is in flight and returns. It gets over what
    /// passes by itself; an error means that it can never work as it is, and ends the worker.
    fn run(
        self: Box<Self>,
        bus: Bus,
        stop: CancellationToken,
    ) -> BoxFuture<'static, Result<(), Box<dyn Error + Send + Sync>>>;
}
