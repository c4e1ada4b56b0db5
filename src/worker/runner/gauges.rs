//! Tells the status reporter how much runs, after each turn of the runner: endpoints and metrics read it there, also
//! while the runner cannot answer. Never decides anything.

use super::Run;

impl<S: Send + Sync + 'static> Run<S> {
    pub(super) fn gauge(&self) {
        // What waits for the rate limit or for the circuit is not due.
        let has_due = self.later.is_none() && self.lanes.is_ready();
        let (running, resting) = (self.attempts(), self.resting.len());
        self.reporter.gauges().runs(running, resting);
        let is_full = !self.has_free_task();
        self.reporter.gauges().waits(has_due, is_full);
    }
}
