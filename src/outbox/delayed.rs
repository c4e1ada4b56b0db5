//! Delayed events: written beside the log, and listed and cancelled there. Never decides that one is due: the relay
//! moves it into the log then, by the database's clock.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::Database;
use tidings_contract::{Envelope, EventId, IntoEnvelope};

use super::{
    Outbox, OutboxError, Store,
    store::{Names, chunks::chunks, taken::Operation},
};
use crate::handler::context;

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
pub trait Schedule: Database<Connection: Send> {
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
    pub(super) fn new(envelope: Envelope, due: DateTime<Utc>) -> Self {
        Self {
            envelope,
            due: due.max(DateTime::UNIX_EPOCH),
        }
    }
}

impl<DB: Store> Outbox<DB> {
    /// Writes an event that is published at `due` and not before, in a transaction that the caller owns and commits. A
    /// past time means at once. Order and the relay's wake-up are as for [`Outbox::enqueue`]: an idle relay learns of
    /// the event within 250 ms after the commit.
    ///
    /// # Errors
    /// [`OutboxError`], also when an event with this id is delayed already; the database then decides the state of the
    /// transaction: in Postgres it is aborted.
    ///
    /// # Cancel safety
    /// When the future is dropped, the event may or may not be part of the transaction: roll it back.
    pub async fn enqueue_at(
        &self,
        tx: &mut sqlx::Transaction<'_, DB>,
        event: impl IntoEnvelope,
        due: DateTime<Utc>,
    ) -> Result<EventId, OutboxError> {
        let envelope = self.checked(event)?;
        let id = envelope.id();
        if !context::suppresses(1) {
            self.delay(tx, &[Delayed::new(envelope, due)]).await?;
            self.shared.wake.local();
        }
        Ok(id)
    }

    /// Cancels a delayed event, in a transaction that the caller owns and commits. `false` when there is no such event,
    /// or no longer, because it is published. After `true` and a commit it is never published. In a
    /// [replay](crate::replays::Replays) that does not publish follow-up events nothing is cancelled, only counted, and the
    /// result is `false`.
    ///
    /// # Errors
    /// [`OutboxError`]; nothing is cancelled then.
    ///
    /// # Cancel safety
    /// When the future is dropped, the cancellation may or may not be part of the transaction: roll it back.
    pub async fn cancel(
        &self,
        tx: &mut sqlx::Transaction<'_, DB>,
        id: EventId,
    ) -> Result<bool, OutboxError> {
        self.cancel_on(tx, id).await
    }

    /// Cancels on the connection of the transaction.
    pub(super) async fn cancel_on(
        &self,
        connection: &mut DB::Connection,
        id: EventId,
    ) -> Result<bool, OutboxError> {
        if context::suppresses(1) {
            return Ok(false);
        }
        let cancelled = DB::cancel(connection, &self.shared.names, id).await;
        self.told(cancelled).await
    }

    /// Returns the delayed events that are published next, of one key or of all, at most `limit`.
    ///
    /// # Errors
    /// [`OutboxError::NotMigrated`] without tables, else [`OutboxError::Database`].
    pub async fn delayed(
        &self,
        key: Option<&str>,
        limit: u32,
    ) -> Result<Vec<DelayedEvent>, OutboxError> {
        let names = &self.shared.names;
        self.operate(Operation::One, async |connection| {
            DB::coming(connection, names, key, limit).await
        })
        .await
    }

    /// Writes delayed events, one statement per chunk.
    pub(super) async fn delay(
        &self,
        connection: &mut DB::Connection,
        events: &[Delayed],
    ) -> Result<(), OutboxError> {
        for chunk in chunks(events, |event| event.envelope.payload().len()) {
            let delayed = DB::delay(connection, &self.shared.names, chunk).await;
            let told = self.told(delayed).await;
            told.map_err(|error| is_delayed_already(error, chunk))?;
        }
        Ok(())
    }

    /// Writes one event in its own transaction, to be published at `due`, or at once. Unlike a transaction of the
    /// caller it waits for a lock for five seconds at most, and then names the holder.
    ///
    /// # Errors
    /// [`OutboxError`]; nothing is written, unless the answer to a commit was lost.
    ///
    /// # Cancel safety
    /// When the future is dropped, the event may or may not be written. Calling it again with the same [`Envelope`] is
    /// safe: its id enters the stream once, and a delayed event is refused as [`OutboxError::AlreadyDelayed`].
    pub async fn publish_alone(
        &self,
        event: impl IntoEnvelope,
        due: Option<DateTime<Utc>>,
    ) -> Result<EventId, OutboxError> {
        let envelope = self.checked(event)?;
        let id = envelope.id();
        if context::suppresses(1) {
            return Ok(id);
        }
        let names = &self.shared.names;
        let written = match due {
            None => {
                self.operate(Operation::Several, async |connection| {
                    DB::insert(connection, names, std::slice::from_ref(&envelope)).await
                })
                .await
            }
            Some(due) => {
                let delayed = [Delayed::new(envelope, due)];
                let written = self.operate(Operation::Several, async |connection| {
                    DB::delay(connection, names, &delayed).await
                });
                let written = written.await;
                written.map_err(|error| is_delayed_already(error, &delayed))
            }
        };
        written?;
        self.shared.wake.committed();
        Ok(id)
    }
}

/// Translates a unique violation: one of these events has the id of an event that is delayed already.
fn is_delayed_already(error: OutboxError, events: &[Delayed]) -> OutboxError {
    let source = match error {
        OutboxError::Database(source) => source,
        error => return error,
    };
    if !source.is_unique_violation() {
        return OutboxError::Database(source);
    }
    let event = match events {
        [one] => Some(one.envelope.id()),
        _ => None,
    };
    OutboxError::AlreadyDelayed { event, source }
}

/// How long until an event is due, from the seconds that a database returns; zero when that is past.
pub(super) fn due_in(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}
