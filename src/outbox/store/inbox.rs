//! What the inbox stores, and its statements. Never decides the outcome of a delivery.

use std::time::Duration;

use sqlx::Database;
use uuid::Uuid;

use super::{Names, inbox_ring::Ring, sessions::Backend};

/// The statements of the inbox. Every time is the database's clock.
pub trait InboxStatements: Database<Connection: Send> {
    /// The statement that begins a transaction which remembers an event.
    const BEGIN_TO_REMEMBER: &'static str;

    /// Adds events to the slot of their period, except those that are there. Adds none when the slot is out of
    /// reach, or when the ring has another period length. Waits for a concurrent transaction that has added one of
    /// them. The events are sorted, so that two transactions with the same events do not deadlock.
    fn remember(
        connection: &mut Self::Connection,
        names: &Names,
        memory: &Memory<'_>,
    ) -> impl Future<Output = Result<Remembered, sqlx::Error>> + Send;

    /// Removes events that the same transaction has added.
    fn forget(
        connection: &mut Self::Connection,
        names: &Names,
        memory: &Memory<'_>,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Returns the notes of those events that were dead-lettered.
    fn dead_lettered(
        connection: &mut Self::Connection,
        names: &Names,
        memory: &Memory<'_>,
    ) -> impl Future<Output = Result<Vec<(Uuid, String)>, sqlx::Error>> + Send;

    /// Changes the note of one event; `None` is no note. Returns false when the event has another note, or is not
    /// there.
    fn mark(
        connection: &mut Self::Connection,
        names: &Names,
        memory: &Memory<'_>,
        from: Option<&str>,
        to: Option<&str>,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// Empties the slot that is out of reach; returns its number, if it held anything.
    fn empty_dead_slot(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<Option<usize>, sqlx::Error>> + Send;

    /// Runs a statement that begins or ends a transaction. The client's count of open transactions does not change.
    fn say(
        connection: &mut Self::Connection,
        what: &'static str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Commits a transaction in which the handler's statements may have failed. Fails when the database has rolled
    /// it back. Returns false when the handler has ended the transaction, and with it the memory of the event. The
    /// client's count of open transactions does not change.
    fn conclude(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// Whether the error means that the connection is unusable.
    fn is_lost(error: &sqlx::Error) -> bool;

    /// Whether the server is available, and has refused the statement.
    fn is_refusal(error: &sqlx::Error) -> bool;
}

/// Events of one period in the inbox.
#[derive(Debug, Clone, Copy)]
pub struct Memory<'a> {
    /// The subscriber, or the replay of one, whose events they are.
    pub scope: &'a str,
    /// The length of a period that the caller assumes.
    pub slot_seconds: i64,
    /// The period.
    pub period: i64,
    /// The events' ids, sorted.
    pub events: &'a [Uuid],
    /// The server ends the transaction when its client is silent for this long.
    pub idle: Duration,
}

/// The answer of the inbox.
#[derive(Debug)]
pub struct Remembered {
    /// The ring as it was.
    pub ring: Ring,
    /// The events that were added.
    pub added: Added,
    /// The transaction at the server, where there is one.
    pub backend: Option<Backend>,
}

/// Which events were added.
#[derive(Debug, PartialEq, Eq)]
pub enum Added {
    /// All of them.
    All,
    /// Only these.
    Only(Vec<Uuid>),
}
