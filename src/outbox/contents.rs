//! What is in the outbox, for whoever wants to see all of it: tests. Never what the relay does with it.

use sqlx::Database;
use tidings_contract::Envelope;

use super::{
    Outbox, Store,
    store::{Names, Row},
    taken::Operation,
};

/// The statement about everything that is kept.
pub trait Contents: Database<Connection: Send> {
    /// All rows in the order of ids, whether they are published or not.
    fn contents(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<Vec<Row>, sqlx::Error>> + Send;
}

impl<DB: Store> Outbox<DB> {
    /// All events that are kept, in the order of the outbox. A row that is none is left out, and said.
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
