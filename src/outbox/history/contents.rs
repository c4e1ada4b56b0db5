//! Reads everything in the outbox, for tests. Never looks at what the relay does with it.

use tidings_contract::Envelope;

use crate::outbox::{Outbox, Store, operate::Operation, store::Row};

impl<DB: Store> Outbox<DB> {
    /// Returns all events in the log, in its order. Rows that are not events are left out and logged.
    pub(crate) async fn contents(
        &self,
    ) -> Result<Vec<Envelope>, Box<dyn std::error::Error + Send + Sync>> {
        let names = &self.shared.names;
        let looking = async |connection: &mut DB::Connection| DB::contents(connection, names).await;
        let rows = self.operate(Operation::One, looking).await?;
        let event = |row: Row| match row.envelope() {
            Ok(envelope) => Some(envelope),
            Err(error) => {
                tracing::warn!(
                    row = row.id,
                    error,
                    "invalid row skipped: it is not an event"
                );
                None
            }
        };
        Ok(rows.into_iter().filter_map(event).collect())
    }
}
