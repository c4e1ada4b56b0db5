//! The statements that migrate the tables. Never decides which migrations are missing.

use sqlx::Database;

use super::Names;

/// A step of the schema.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// The name, as in the file name.
    pub name: &'static str,
    /// The statements, for the default schema.
    pub sql: &'static str,
}

/// The migrations of one database, and the statements that run them.
pub trait MigrationStatements: Database<Connection: Send> {
    /// The table that records migrations, in the default schema.
    const MIGRATION_TABLE: &'static str;
    /// The migrations, in order; a migration's version is its position, from 1.
    const MIGRATIONS: &'static [Migration];

    /// Returns what [`MigrationStatements::begin_migration`] does, as text for printing.
    fn migration_preamble(names: &Names) -> String;

    /// Takes the lock that serialises migrations, creates the table that records them, and returns the current version
    /// of the database. Runs inside a transaction.
    fn begin_migration(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<i32, sqlx::Error>> + Send;

    /// Runs one migration and records it.
    fn apply_migration(
        connection: &mut Self::Connection,
        names: &Names,
        version: i32,
        migration: &Migration,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}
