//! What the relay says of a fault, and to whom: who is in its way, and the status. Never decides what follows from it.

use std::time::Duration;

use super::{Relay, fault::Fault, life::Life};
use crate::outbox::Store;

impl<DB: Store> Relay<DB> {
    /// A connection that waits for a lock no longer than the lease bears: whoever has it is named, and the lease is not
    /// lost over it.
    pub(super) async fn connect(&self) -> Result<DB::Connection, sqlx::Error> {
        self.outbox.connect_for(self.settings.lease / 2).await
    }

    /// Who is in the way, where others are.
    pub(super) async fn explained(&self, fault: Fault) -> Fault {
        match fault {
            Fault::Database(error) if DB::is_locked_out(&error) => {
                Fault::Locked(self.outbox.locked_by().await)
            }
            fault => fault,
        }
    }

    /// Has a fault shown by the status, if the database can be reached. Gives whether it is to be said.
    pub(super) async fn complain(&self, life: &Life, fault: &Fault) -> bool {
        const WITHIN: Duration = Duration::from_secs(1);
        if !fault.holds_up() {
            return true;
        }
        let (troubles, cure) = (&life.troubles, fault.cure(DB::KIND, &life.bus));
        let is_said = troubles.begin(&fault.place(), &fault.to_string(), &cure);
        // Newer tables are not for this program to write.
        if matches!(fault, Fault::Version { .. }) {
            return is_said;
        }
        let complaining = async {
            // What waits for a lock would be one more that waits, after it is given up here.
            let mut connection = self.outbox.connect_for(WITHIN).await?;
            let names = &self.outbox.shared.names;
            let owner = &self.settings.owner;
            DB::complain(&mut connection, names, owner, &troubles.text()?).await
        };
        match tokio::time::timeout(WITHIN, complaining).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "relay issue not stored"),
            Err(_) => tracing::debug!("relay issue write timed out"),
        }
        is_said
    }
}
