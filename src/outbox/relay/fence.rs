//! Until when this process may publish, by its own monotonic clock. Never asks the database.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::Fault;
use crate::nats::Refusal;

/// The end of the lease as its owner knows it. Clones share it.
#[derive(Clone)]
pub(super) struct Fence(Arc<Mutex<State>>);

struct State {
    until: Instant,
    /// The statement that renews the lease is running.
    is_asked: bool,
}

impl Fence {
    pub(super) fn until(moment: Instant) -> Self {
        Self(Arc::new(Mutex::new(State {
            until: moment,
            is_asked: false,
        })))
    }

    /// The relay begins a statement that renews the lease.
    pub(super) fn asks(&self) {
        self.lock().is_asked = true;
    }

    /// The lease was renewed until this moment.
    pub(super) fn extend(&self, moment: Instant) {
        *self.lock() = State {
            until: moment,
            is_asked: false,
        };
    }

    /// Why the lease is over: the database did not answer, or this process stood still.
    pub(super) fn over(&self) -> Fault {
        match self.lock().is_asked {
            true => Fault::Silent,
            false => Fault::StoodStill,
        }
    }

    fn moment(&self) -> Instant {
        self.lock().until
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Completes when the fence is not extended in time.
    pub(super) async fn passed(&self) {
        while Instant::now() < self.moment() {
            tokio::time::sleep_until(self.moment()).await;
        }
    }

    /// The refusal that takes the place of the server's answer once the lease is over.
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
            Err(self.over())
        }
    }
}
