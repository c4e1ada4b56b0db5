//! Delayed events as the database stores them, and the statements about them. Never decides that one is due.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::Database;
use tidings_contract::{Envelope, EventId};

use super::Names;

/// An event that is not published yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DelayedEvent {
    /// The event's id, by which it is cancelled.
    pub id: EventId,
    /// When it is due.
    pub due: DateTime<Utc>,
    /// The event's name.
    pub name: String,
    /// The payload's version.
    pub version: u32,
    /// The event's key.
    pub key: Option<String>,
    /// When it was written.
    pub at: DateTime<Utc>,
}

/// An event and its due time.
#[derive(Debug)]
pub struct Delayed {
    /// The event.
    pub envelope: Envelope,
    /// When it is due.
    pub due: DateTime<Utc>,
}

/// The statements about delayed events.
pub trait DelayedStatements: Database<Connection: Send> {
    /// Writes events, in their order.
    fn delay(
        connection: &mut Self::Connection,
        names: &Names,
        events: &[Delayed],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Removes an event; false when it does not exist, or no longer.
    fn cancel(
        connection: &mut Self::Connection,
        names: &Names,
        event: EventId,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// Returns the next events, of one key or of all, at most `limit`.
    fn coming(
        connection: &mut Self::Connection,
        names: &Names,
        key: Option<&str>,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<DelayedEvent>, sqlx::Error>> + Send;

    /// Moves due events into the log, in the order (due, row id), at most `most` events, in one transaction; returns
    /// how many. Waits for no lock: an event that an open transaction is cancelling stays until that has ended, and so
    /// do the later events of its key.
    fn move_due(
        connection: &mut Self::Connection,
        names: &Names,
        most: u32,
    ) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;
}

impl Delayed {
    /// A time before 1970 becomes 1970: it is past anyway, and not every database can store every time.
    pub(in crate::outbox) fn new(envelope: Envelope, due: DateTime<Utc>) -> Self {
        Self {
            envelope,
            due: due.max(DateTime::UNIX_EPOCH),
        }
    }
}

/// How long until an event is due, from the seconds that a database returns; zero when that is past.
pub(in crate::outbox) fn due_in(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}
