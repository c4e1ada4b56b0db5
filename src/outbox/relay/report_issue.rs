//! Reports a fault of the relay in the log and in the status, and names who holds a lock. Never decides what
//! follows.

use std::time::Duration;

use super::{Relay, fault::Fault, relay_state::RelayState};
use crate::outbox::Store;

impl<DB: Store> Relay<DB> {
    /// Connects with a lock timeout that is shorter than the lease of the tenure: the fault then names the holder of the
    /// lock, and the lease is not lost while the relay waits.
    pub(super) async fn connect(&self, lease: Duration) -> Result<DB::Connection, sqlx::Error> {
        self.outbox.connect_for(lease / 2).await
    }

    /// Names the holders of a lock, when the fault is about one.
    pub(super) async fn explained(&self, fault: Fault) -> Fault {
        match fault {
            Fault::Database(error) if DB::is_locked_out(&error) => {
                Fault::Locked(self.outbox.locked_by().await)
            }
            fault => fault,
        }
    }

    /// Shows a fault in the status, if the database can be reached. Returns whether the caller is to log it.
    pub(super) async fn report_issue(&self, state: &RelayState, fault: &Fault) -> bool {
        const WITHIN: Duration = Duration::from_secs(1);
        if !fault.holds_up() {
            return true;
        }
        let (issues, cure) = (&state.issues, fault.cure(DB::KIND, &state.bus));
        let kind = fault.kind(&state.bus);
        let is_said = issues.begin(&fault.place(), kind, &fault.to_string(), &cure);
        // This program must not write to newer tables.
        if matches!(fault, Fault::Version { .. }) {
            return is_said;
        }
        let writing = async {
            // A statement that waits for a lock would go on waiting after this call has timed out.
            let mut connection = self.outbox.connect_for(WITHIN).await?;
            let names = &self.outbox.shared.names;
            let owner = &self.owner;
            let text = issues.text(state.reporter.configuration())?;
            DB::write_issues(&mut connection, names, owner, &text).await
        };
        match tokio::time::timeout(WITHIN, writing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "relay issue not stored"),
            Err(_) => tracing::debug!("relay issue write timed out"),
        }
        is_said
    }
}
