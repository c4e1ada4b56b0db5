//! Until when this process may publish, by its own monotonic clock. Never asks the database.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::Fault;
use crate::bus::Refusal;

/// The end of the lease as its owner knows it. Clones share it.
#[derive(Clone)]
pub(super) struct Fence(Arc<Mutex<Instant>>);

impl Fence {
    pub(super) fn until(moment: Instant) -> Self {
        Self(Arc::new(Mutex::new(moment)))
    }

    pub(super) fn extend(&self, moment: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = moment;
    }

    fn moment(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when the fence is not extended in time.
    pub(super) async fn passed(&self) {
        while Instant::now() < self.moment() {
            tokio::time::sleep_until(self.moment()).await;
        }
    }

    /// What stands for the server's answer when the time is over.
    pub(super) fn refuse(&self) -> Result<(), Refusal> {
        self.check().map_err(|over| Refusal::Transient {
            code: 0,
            reason: over.to_string(),
        })
    }

    pub(super) fn check(&self) -> Result<(), Fault> {
        if Instant::now() < self.moment() {
            Ok(())
        } else {
            Err(Fault::Fenced)
        }
    }
}
