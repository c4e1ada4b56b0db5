//! The statements of the preflight. Never judges what they return.

use chrono::{DateTime, Utc};
use sqlx::Database;

use super::Names;
use crate::policy::preflight::DatabaseFigures;

/// The bytes of each table, and the time of the database's clock.
#[cfg(feature = "ops")]
pub(crate) type Sizes = (Vec<(String, i64)>, Option<DateTime<Utc>>);

/// The statements about the configuration of a database.
pub trait PreflightStatements: Database<Connection: Send> {
    /// Returns what this role sees of the database, and the time of the database's clock where it is another one than
    /// that of this process.
    fn preflight(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<(DatabaseFigures, Option<DateTime<Utc>>), sqlx::Error>> + Send;

    /// Returns how many bytes each table has on disk, with its indexes and all of its partitions, and the time of the
    /// database's clock where it is another one than that of this process.
    #[cfg(feature = "ops")]
    fn sizes(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<Sizes, sqlx::Error>> + Send;

    /// Returns the size that producers check their events against, where they read it from the database.
    fn checked_payload(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<Option<usize>, sqlx::Error>> + Send;

    /// Returns the other outboxes in the database that have a relay now, each with the owner of its lease.
    fn other_outboxes(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<Vec<(String, String)>, sqlx::Error>> + Send;
}
