//! What the relay says of a fault, and to whom: who is in its way, and the status. Never decides what follows from it.

use std::time::Duration;

use super::{
    Relay,
    fault::Fault,
    trouble::{RELAY, Troubles},
};
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

    /// Has a fault shown by the status, if the database can be reached.
    pub(super) async fn complain(&self, troubles: &Troubles, fault: &Fault) {
        const WITHIN: Duration = Duration::from_secs(1);
        if matches!(fault, Fault::Stopped) {
            return;
        }
        troubles.begin(RELAY, &fault.to_string(), fault.cure());
        let complaining = async {
            let mut connection = self.outbox.connect().await?;
            let names = &self.outbox.shared.names;
            let owner = &self.settings.owner;
            DB::complain(&mut connection, names, owner, &troubles.text()?).await
        };
        match tokio::time::timeout(WITHIN, complaining).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the status does not show the fault"),
            Err(_) => tracing::debug!("the status does not show the fault"),
        }
    }
}
