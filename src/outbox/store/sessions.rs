//! What the server does for this client, and the statements about it. Never decides that a connection is lost.

use std::time::Duration;

use sqlx::Database;

use super::Names;

/// A transaction at the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    /// The server process.
    pub pid: i32,
    /// When the transaction began, in microseconds of the server's clock: behind a pooler the process also runs
    /// transactions of other clients.
    pub began: i64,
}

/// What one server process does for this user in this database.
#[derive(Debug, Clone, Copy)]
pub struct Session {
    /// The server process.
    pub pid: i32,
    /// When its transaction began, if it has one.
    pub began: Option<i64>,
    /// It is running a statement, as far as is known.
    pub is_running: bool,
    /// Its current or last statement belongs to this outbox.
    pub is_ours: bool,
}

/// The statements about sessions and locks.
pub trait SessionStatements: Database<Connection: Send> {
    /// Limits how long statements on a connection outside the pool wait for a lock, and how long the server waits for a
    /// client that is gone, where the connection's options do not set these.
    fn bound_waits(
        _connection: &mut Self::Connection,
        _names: &Names,
        _wait: Duration,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        std::future::ready(Ok(()))
    }

    /// Fails when the disk of the server has no room, where that does not show in every write.
    fn has_room(
        _connection: &mut Self::Connection,
        _names: &Names,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        std::future::ready(Ok(()))
    }

    /// Describes who holds a lock on the outbox.
    fn locked_by(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<String, sqlx::Error>> + Send;

    /// Returns what the server does for this user in this database, apart from this statement.
    fn sessions(
        _connection: &mut Self::Connection,
        _names: &Names,
    ) -> impl Future<Output = Result<Vec<Session>, sqlx::Error>> + Send {
        std::future::ready(Ok(Vec::new()))
    }

    /// Ends a transaction of this user, and its connection. Returns whether it was running a statement.
    fn end_session(
        _connection: &mut Self::Connection,
        _backend: Backend,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send {
        std::future::ready(Ok(false))
    }
}
