//! The statements about the log as a whole. Never looks at what the relay does with it.

use sqlx::Database;
use tidings_contract::Envelope;

use super::{Names, Row};

/// The statements that write to the log, and read all of it.
pub trait LogStatements: Database<Connection: Send> {
    /// Writes events, in their order.
    fn insert(
        connection: &mut Self::Connection,
        names: &Names,
        envelopes: &[Envelope],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Returns all rows in the order of ids, whether they are published or not.
    fn contents(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<Vec<Row>, sqlx::Error>> + Send;
}
