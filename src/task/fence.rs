//! Until when this process may act under a lease, by its own monotonic clock. Never asks where the lease is stored.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// The end of a lease as its owner knows it: counted from before the last renewal was sent, so it is never later than
/// where the lease is stored. Clones share it.
#[derive(Clone)]
pub(crate) struct Fence(Arc<Mutex<State>>);

struct State {
    until: Instant,
    /// A renewal was sent, and not answered yet.
    is_asked: bool,
}

/// Why the owner may no longer act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LeaseOver {
    /// The renewal was sent, and its answer has not arrived in time.
    #[error("the database does not answer: the lease could not be renewed")]
    Silent,
    /// No renewal was sent in time.
    #[error("the lease has expired: this process stood still for longer than the lease lasts")]
    StoodStill,
}

impl Fence {
    pub(crate) fn until(moment: Instant) -> Self {
        Self(Arc::new(Mutex::new(State {
            until: moment,
            is_asked: false,
        })))
    }

    /// The owner sends a renewal of the lease.
    #[cfg(any(feature = "outbox", test))]
    pub(crate) fn asks(&self) {
        self.lock().is_asked = true;
    }

    /// The lease was renewed until this moment, or is known to end then.
    pub(crate) fn extend(&self, moment: Instant) {
        *self.lock() = State {
            until: moment,
            is_asked: false,
        };
    }

    fn moment(&self) -> Instant {
        self.lock().until
    }

    /// Fails when another owner may have the lease. Reads the clock: a process that was frozen may call this before its
    /// renewal has noticed that it is too late.
    #[cfg(any(feature = "outbox", test))]
    pub(crate) fn check(&self) -> Result<(), LeaseOver> {
        match Instant::now() < self.moment() {
            true => Ok(()),
            false => Err(self.over()),
        }
    }

    /// Completes when the lease was not renewed in time.
    pub(crate) async fn passed(&self) -> LeaseOver {
        while Instant::now() < self.moment() {
            tokio::time::sleep_until(self.moment()).await;
        }
        self.over()
    }

    fn over(&self) -> LeaseOver {
        match self.lock().is_asked {
            true => LeaseOver::Silent,
            false => LeaseOver::StoodStill,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LEASE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn an_expired_lease_is_not_held() {
        let fence = Fence::until(Instant::now() + LEASE);
        tokio::time::advance(LEASE - Duration::from_millis(1)).await;
        assert_eq!(fence.check(), Ok(()));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(fence.check(), Err(LeaseOver::StoodStill));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_without_an_answer_is_not_a_stopped_process() {
        let fence = Fence::until(Instant::now() + LEASE);
        fence.asks();
        assert_eq!(fence.passed().await, LeaseOver::Silent);
        fence.extend(Instant::now() + LEASE);
        assert_eq!(fence.check(), Ok(()));
        assert_eq!(fence.passed().await, LeaseOver::StoodStill);
    }
}
