//! What is in the outbox, for whoever wants to see all of it: tests. Never what the relay does with it.

use sqlx::Database;
use tidings_contract::{Envelope, wire};

use super::{
    Outbox, Store,
    store::{Names, Row},
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
    /// All events that are kept, in the order of the outbox.
    pub(crate) async fn contents(
        &self,
    ) -> Result<Vec<Envelope>, Box<dyn std::error::Error + Send + Sync>> {
        let mut connection = self.acquire().await?;
        let rows = DB::contents(&mut connection, &self.shared.names).await;
        let rows = self.end(connection, rows).await?;
        let envelope = |row: Row| {
            let version = u32::try_from(row.version).unwrap_or(0);
            let key = row.key.as_deref();
            wire::from_stored(
                row.event,
                &row.name,
                version,
                key,
                &row.headers,
                row.payload,
            )
        };
        Ok(rows.into_iter().map(envelope).collect::<Result<_, _>>()?)
    }
}
