//! Writes checkpoints, which renew the lease, and ends the issues that a checkpoint settles.

use tokio::time::Instant;

use super::{Fault, Keeper};
use crate::outbox::{
    Store,
    relay::{
        failpoint::{self, Point},
        issue::RELAY,
    },
    store::Checkpoint,
};

impl<DB: Store> Keeper<DB> {
    /// Writes what is new and renews the lease, in one statement. The fence is measured from before the statement
    /// was sent.
    pub(super) async fn checkpoint(&mut self) -> Result<(), Fault> {
        failpoint::reach(&self.context.tenure.owner, Point::Checkpoint).await;
        let sent = Instant::now();
        let checkpoint = Checkpoint {
            cursor: self.cursor.clone(),
            streams: self.streams.clone(),
            ledger: std::mem::take(&mut self.ledger),
            returned: std::mem::take(&mut self.returned),
            issues: self
                .context
                .issues
                .text(self.context.reporter.configuration())?,
        };
        let (names, tenure) = (&self.context.outbox.shared.names, &self.context.tenure);
        self.context.fence.asks();
        let written =
            DB::checkpoint(&mut self.context.connection, names, tenure, &checkpoint).await?;
        let Some(written) = written else {
            return Err(Fault::Fenced);
        };
        self.dirty = false;
        self.context.reporter.answered(written.is_waiting);
        self.written.send_replace(checkpoint.cursor);
        self.context.fence.extend(sent + self.context.tenure.lease);
        failpoint::reach(&self.context.tenure.owner, Point::Checkpointed).await;
        self.end_issues(!checkpoint.ledger.is_empty());
        // When an operator has discarded the last waiting rows, their issue is over: the next tenure checks.
        let was_waiting = std::mem::replace(&mut self.is_waiting, written.is_waiting);
        let is_given_up = was_waiting && !written.is_waiting;
        if self.is_relaying && (written.is_asked || is_given_up) {
            self.end_tenure();
        }
        Ok(())
    }

    /// Ends issues of the relay when a checkpoint states that events were confirmed, or that everything there was is
    /// done.
    fn end_issues(&mut self, is_confirmed: bool) {
        let issues = &self.context.issues;
        if is_confirmed {
            self.context.reporter.confirmed();
            // The status shows the issue until the next checkpoint.
            self.dirty |= issues.end(RELAY);
        }
        if std::mem::take(&mut self.catches_up) {
            self.dirty |= issues.caught_up();
        }
    }

    /// At the end of the relay: ends the issue of a subject that no parked row waits for any more, though the log
    /// was not read to its end since.
    pub(super) async fn end_settled(&mut self) -> Result<(), Fault> {
        let waited_for = self.context.issues.subjects();
        if waited_for.is_empty() || !self.context.stop.is_cancelled() {
            return Ok(());
        }
        let names = &self.context.outbox.shared.names;
        let waiting = DB::waiting(&mut self.context.connection, names).await?;
        let waits = |place: &String| {
            let mut reasons = waiting.reasons.iter();
            reasons.any(|reason| reason.blocked_on.to_string() == *place)
        };
        for place in waited_for.iter().filter(|place| !waits(place)) {
            self.dirty |= self.context.issues.end(place);
        }
        Ok(())
    }
}
