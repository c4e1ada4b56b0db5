//! Changes settings of a worker while it runs. Never decides which values are valid.

use std::sync::Arc;

use super::status_reporter::StatusReporter;
use crate::{
    executor::throttle::Throttle,
    policy::adjustment::{AdjustError, Adjustment},
    process::{Adjustable, Process},
};

/// Changes settings of a worker while it runs. Cheap to clone; [`Worker::handle`](super::Worker::handle) makes it.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    process: Process,
}

impl WorkerHandle {
    pub(super) fn new(process: &Process) -> Self {
        let process = process.clone();
        Self { process }
    }

    /// Changes settings of a subscriber, or of the worker's relays. Each setting that changes is one log line, with the
    /// old and the new value. The change lasts until the process ends; the status of the subscriber
    /// ([`Instance`](crate::subscribers::Instance)) and of the relay report the values in effect.
    ///
    /// It concerns this process only: an adjusted concurrency or rate is that of one instance. Settings that other
    /// instances have to share, such as the order or the retries, cannot be adjusted. The consumers at the server stay
    /// as they are: their settings do not depend on the concurrency.
    ///
    /// # Errors
    /// [`AdjustError`] when a value is invalid, or when the worker does not run what it concerns. Nothing has changed then.
    ///
    /// ```no_run
    /// use tidings::{Rate, Worker, worker::{AdjustError, Adjustment}};
    ///
    /// # fn example(worker: Worker<()>) -> Result<(), AdjustError> {
    /// let handle = worker.handle();
    /// // While the worker runs, such as in an HTTP handler:
    /// handle.adjust(Adjustment::subscriber("welcome-email").rate_limit(Rate::per_second(10)))?;
    /// handle.adjust(Adjustment::relay().batch(100))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn adjust(&self, adjustment: impl Into<Adjustment>) -> Result<(), AdjustError> {
        let adjustment = adjustment.into();
        adjustment.check()?;
        match self.process.adjust(&adjustment) {
            true => Ok(()),
            false => Err(adjustment.unmatched()),
        }
    }
}

/// A subscriber of the worker.
pub(super) struct Adjusted {
    pub(super) subscriber: String,
    pub(super) throttle: Arc<Throttle>,
    pub(super) reporter: Arc<StatusReporter>,
}

impl Adjustable for Adjusted {
    fn adjust(&self, adjustment: &Adjustment) -> bool {
        let Adjustment::Subscriber(to) = adjustment else {
            return false;
        };
        if to.name != self.subscriber {
            return false;
        }
        for changed in self.throttle.adjust(to) {
            tracing::info!(
                subscriber = self.subscriber,
                setting = changed.setting,
                old = changed.old,
                new = changed.new,
                "setting adjusted"
            );
        }
        self.reporter.wake_runner();
        true
    }
}
