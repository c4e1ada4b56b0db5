//! Settings of a relay that change while it runs, and the issue of its configuration. Never relays.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Relay, RelayTuning};
use crate::{
    outbox::{Store, store::status::StoredIssue},
    policy::{
        adjustment::{AdjustError, Adjustment, RelayAdjustment},
        issue_kind::IssueKind,
    },
    process::Adjustable,
};

/// What to do about a configuration that cannot be used.
const CURE: &str =
    "correct it: the relay reads it again by itself, and keeps the settings before it until then";

/// Changes settings of a relay while it runs. Cheap to clone; [`Relay::handle`] makes it. A relay that is given to a
/// worker is also adjusted through [`WorkerHandle::adjust`](crate::worker::WorkerHandle::adjust).
#[derive(Clone)]
pub struct RelayHandle(Arc<RelayControl>);

/// The settings of a relay, as its status reports them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RelaySettings {
    /// How long a standby waits for it, in milliseconds.
    pub lease_ms: u64,
    /// The most events of one atomic batch.
    pub batch: usize,
    /// How long confirmed events stay in the outbox at least, in milliseconds.
    pub retention_ms: u64,
    /// How long a stream that accepts no events may delay the events of other streams, in milliseconds.
    pub stall_timeout_ms: u64,
}

/// Shared by a relay and its handles.
pub(super) struct RelayControl {
    /// The schema, or the prefix of the tables.
    outbox: String,
    tuning: watch::Sender<RelayTuning>,
    configuration: Mutex<Option<StoredIssue>>,
}

impl<DB: Store> Relay<DB> {
    /// Returns a handle that changes settings while the relay runs.
    ///
    /// ```no_run
    /// use tidings::{Outbox, Relay, sqlx::Postgres, worker::{AdjustError, Adjustment}};
    ///
    /// # fn example(outbox: Outbox<Postgres>) -> Result<(), AdjustError> {
    /// let relay = Relay::new(outbox);
    /// let handle = relay.handle();
    /// // While the relay runs:
    /// handle.adjust(&Adjustment::relay().batch(100))?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn handle(&self) -> RelayHandle {
        RelayHandle(Arc::clone(&self.control))
    }
}

impl RelayHandle {
    /// Changes settings of the relay. Each setting that changes is one log line, with the old and the new value.
    ///
    /// # Errors
    /// [`AdjustError`] when a value is invalid, or when the adjustment is of another outbox. Nothing has changed then.
    pub fn adjust(&self, to: &RelayAdjustment) -> Result<(), AdjustError> {
        to.check()?;
        match self.0.adjust(to) {
            true => Ok(()),
            false => Err(AdjustError::NoRelay(to.outbox.clone())),
        }
    }

    /// Makes it an issue of the relay that its configuration has changed and cannot be used: status and doctor report
    /// it, and no event waits for it. `None` ends the issue.
    pub fn configuration_issue(&self, why: Option<&str>) {
        let mut known = self.0.configuration();
        let since = known.as_ref().map(|known| known.since);
        *known = why.map(|why| {
            let mut issue = StoredIssue::begins(IssueKind::Configuration, why, CURE);
            issue.since = since.unwrap_or(issue.since);
            issue
        });
    }
}

impl RelayControl {
    pub(super) fn new(outbox: &str, tuning: RelayTuning) -> Self {
        Self {
            outbox: outbox.to_owned(),
            tuning: watch::Sender::new(tuning),
            configuration: Mutex::default(),
        }
    }

    /// Changes a setting before the relay runs. A value that is out of its bounds becomes the nearest one.
    pub(super) fn set(&self, change: impl FnOnce(&mut RelayTuning)) {
        self.tuning.send_modify(|tuning| {
            change(tuning);
            *tuning = tuning.bounded();
        });
    }

    pub(super) fn outbox(&self) -> &str {
        &self.outbox
    }

    pub(super) fn tuning(&self) -> RelayTuning {
        *self.tuning.borrow()
    }

    /// The present settings, and where later ones arrive.
    pub(super) fn subscribe(&self) -> (RelayTuning, watch::Receiver<RelayTuning>) {
        let mut changes = self.tuning.subscribe();
        let now = *changes.borrow_and_update();
        (now, changes)
    }

    pub(super) fn settings(&self) -> RelaySettings {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let tuning = self.tuning();
        RelaySettings {
            lease_ms: millis(tuning.lease),
            batch: tuning.batch,
            retention_ms: millis(tuning.retention),
            stall_timeout_ms: millis(tuning.stall_timeout),
        }
    }

    /// The issue of the configuration, if there is one.
    pub(super) fn issue(&self) -> Option<StoredIssue> {
        self.configuration().clone()
    }

    fn configuration(&self) -> MutexGuard<'_, Option<StoredIssue>> {
        let known = self.configuration.lock();
        known.unwrap_or_else(PoisonError::into_inner)
    }

    /// Adopts valid values; returns whether they are of this outbox.
    fn adjust(&self, to: &RelayAdjustment) -> bool {
        if to.outbox.as_ref().is_some_and(|of| *of != self.outbox) {
            return false;
        }
        let mut changed = Vec::new();
        self.tuning.send_if_modified(|tuning| {
            changed = tuning.adjust(to);
            !changed.is_empty()
        });
        for changed in changed {
            tracing::info!(
                schema = self.outbox,
                setting = changed.setting,
                old = changed.old,
                new = changed.new,
                "setting adjusted"
            );
        }
        true
    }
}

impl Adjustable for RelayControl {
    fn adjust(&self, adjustment: &Adjustment) -> bool {
        match adjustment {
            Adjustment::Relay(to) => self.adjust(to),
            Adjustment::Subscriber(_) => false,
        }
    }
}

impl fmt::Debug for RelayHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RelayHandle")
            .field(&self.0.outbox)
            .field(&self.0.tuning())
            .finish()
    }
}
