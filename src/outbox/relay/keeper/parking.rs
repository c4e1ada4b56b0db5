//! Parks rows, in the database and in the program's log. Never decides which.

use super::{Fault, Keeper};
use crate::outbox::{Store, store::Parked};

impl<DB: Store> Keeper<DB> {
    pub(super) async fn park(&mut self, parked: &[Parked]) -> Result<(), Fault> {
        parked.iter().for_each(say_parked);
        // A process that was frozen must not park a row that its successor has published.
        self.context.fence.check()?;
        let has_flaw = |parked: &&Parked| parked.row.flaw.is_some();
        let flawed: Vec<Parked> = parked.iter().filter(has_flaw).cloned().collect();
        let names = &self.context.outbox.shared.names;
        if flawed.is_empty() {
            DB::park(&mut self.context.connection, names, parked).await?;
            return Ok(());
        }
        let others = parked.iter().filter(|parked| !has_flaw(parked));
        let others: Vec<Parked> = others.cloned().collect();
        self.move_flawed(flawed).await?;
        let names = &self.context.outbox.shared.names;
        DB::park(&mut self.context.connection, names, &others).await?;
        Ok(())
    }

    /// Moving a large row may take longer than a lease lasts. So a task moves it that outlives this tenure: the next
    /// tenure finds the row parked, instead of starting over endlessly.
    async fn move_flawed(&mut self, flawed: Vec<Parked>) -> Result<(), Fault> {
        let outbox = self.context.outbox.clone();
        let mut moving = tokio::spawn(async move {
            let mut connection = outbox.connect().await?;
            DB::park(&mut connection, &outbox.shared.names, &flawed).await
        });
        let renewal = self.context.tenure.lease / 3;
        loop {
            tokio::select! {
                moved = &mut moving => {
                    moved.map_err(|error| Fault::Ended(error.to_string()))??;
                    return Ok(());
                }
                () = tokio::time::sleep(renewal) => self.checkpoint().await?,
            }
        }
    }
}

/// Logs one line for a refused row, with its cure. Rows that follow it or wait are logged at debug level only: the
/// status counts them, and their issue is logged on its own.
fn say_parked(parked: &Parked) {
    const CURE: &str =
        "tidings outbox parked, which shows what follows it; then tidings outbox unpark or discard";
    let Parked { row, error, .. } = parked;
    let (id, name, key) = (row.event, &row.name, &row.key);
    match (&parked.blocked_on, parked.follows) {
        (None, false) => {
            tracing::error!(row = row.id, event.id = %id, event.name = name, key, error, cure = CURE, "event parked");
        }
        (None, true) => {
            tracing::debug!(row = row.id, event.id = %id, event.name = name, key, error, "follower parked");
        }
        (Some(blocked_on), _) => {
            tracing::debug!(row = row.id, event.id = %id, event.name = name, key, %blocked_on, "event blocked");
        }
    }
}
