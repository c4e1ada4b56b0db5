//! Notifies the relay of commits. Only ever a hint: the relay also polls.
//!
//! Does not use LISTEN/NOTIFY: a notifying commit takes a lock that all databases of the Postgres cluster share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::nats::{Bus, subjects};

/// Pings are sent at most this often.
const COALESCE: Duration = Duration::from_millis(1);

/// Shared by the clones of an outbox and its relay.
#[derive(Clone, Default)]
pub(super) struct Wake {
    shared: Arc<Shared>,
    over: Option<(Bus, Arc<str>)>,
}

struct Shared {
    committed: Notify,
    /// The active relay is in this process: a ping would only wake it twice.
    working_here: AtomicBool,
    began: Instant,
    last_ping: AtomicU64,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            committed: Notify::new(),
            working_here: AtomicBool::new(false),
            began: Instant::now(),
            last_ping: AtomicU64::new(0),
        }
    }
}

/// While this value lives, the relay of this process is the active one.
pub(super) struct Working(Arc<Shared>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.working_here.store(false, Ordering::Relaxed);
    }
}

impl Wake {
    pub(super) fn over(bus: &Bus, outbox: &str) -> Self {
        Self {
            shared: Arc::default(),
            over: Some((bus.clone(), subjects::wake(outbox).into())),
        }
    }

    /// Reports a commit.
    pub(super) fn committed(&self) {
        self.local();
        if let Some((bus, subject)) = &self.over
            && !self.shared.working_here.load(Ordering::Relaxed)
            && self.may_ping()
        {
            bus.ping(subject);
        }
    }

    /// Reports to a relay in this process only that a transaction was, or soon will be, committed.
    pub(super) fn local(&self) {
        self.shared.committed.notify_one();
    }

    /// Waits for a commit of this process; an earlier one counts, too.
    pub(super) async fn heard(&self) {
        self.shared.committed.notified().await;
    }

    pub(super) fn work_here(&self) -> Working {
        self.shared.working_here.store(true, Ordering::Relaxed);
        Working(Arc::clone(&self.shared))
    }

    fn may_ping(&self) -> bool {
        let window = |elapsed: Duration| elapsed.as_micros() / COALESCE.as_micros();
        let now = u64::try_from(window(self.shared.began.elapsed()) + 1).unwrap_or(u64::MAX);
        self.shared.last_ping.swap(now, Ordering::Relaxed) != now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn a_commit_before_the_relay_listens_wakes_it() {
        let wake = Wake::default();
        wake.committed();
        assert_eq!(wake.heard().now_or_never(), Some(()));
        assert_eq!(wake.heard().now_or_never(), None);
    }

    #[test]
    fn pings_are_coalesced() {
        let wake = Wake::default();
        let sent = (0..1000).filter(|_| wake.may_ping()).count();
        assert!((1..1000).contains(&sent));
    }
}
