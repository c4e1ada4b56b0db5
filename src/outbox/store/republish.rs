//! The statements of a republisher. Never decides which rows are republished.

use std::time::Duration;

use super::{Entry, Names, Rows};

/// The statements of a republisher.
pub trait RepublishStatements: sqlx::Database {
    /// Takes or renews the republisher's lease; false while another republisher has it.
    fn claim_republish(
        connection: &mut Self::Connection,
        names: &Names,
        republisher: &str,
        lease: Duration,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// Ends the lease.
    fn release_republish(
        connection: &mut Self::Connection,
        names: &Names,
        republisher: &str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Writes entries into the ledger.
    fn record(
        connection: &mut Self::Connection,
        names: &Names,
        entries: &[Entry],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Returns rows by their row ids, in that order, as many as fit into a page. Rows that no longer exist are left
    /// out.
    fn rows_at(
        connection: &mut Self::Connection,
        names: &Names,
        ids: &[i64],
    ) -> impl Future<Output = Result<Rows, sqlx::Error>> + Send;
}
