//! What differs between two databases apart from their statements. Never runs one.

use sqlx::{Connection, Database};

use super::Names;

/// Properties of one database.
pub trait Dialect: Database<Connection: Send> {
    /// The database's name in logs and messages.
    const KIND: &'static str;
    /// Begins a transaction that writes.
    const BEGIN: &'static str;
    /// Begins a transaction that holds only statements of Tidings; the server ends it when its client is gone, where
    /// that must be requested.
    const BEGIN_OWN: &'static str = Self::BEGIN;
    /// Whether the database has one writer at a time. Its other writers poll for the lock, which is neither quick nor
    /// fair.
    const HAS_ONE_WRITER: bool;
    /// Whether the database is reached over a connection, which can be lost, and does not run in this process.
    const IS_REMOTE: bool;
    /// Begins an operation that a caller waits for, where the wait for a lock must be limited.
    const BEGIN_TO_LOOK: Option<&'static str>;

    /// Whether, by these options, transactions share connections with other clients.
    fn is_pooled(options: &<Self::Connection as Connection>::Options) -> bool;

    /// Whether a statement failed because a table is missing, or a column of a later migration.
    fn is_missing_table(error: &sqlx::Error) -> bool;

    /// Whether a statement failed because another transaction held a lock for too long.
    fn is_locked_out(error: &sqlx::Error) -> bool;

    /// Returns the remote host when the connection to it may be unencrypted.
    fn plain_link(_options: &<Self::Connection as Connection>::Options) -> Option<String> {
        None
    }

    /// Returns a statement with the table names of an outbox.
    fn text(names: &Names, statement: &str) -> String;
}
