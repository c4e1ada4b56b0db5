//! Events that are published later: written beside the log, listed and cancelled there. Never decides that
//! one is due: the relay moves it into the log then, by the database's clock.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::Database;
use tidings_contract::{Envelope, EventId, IntoEnvelope};

use super::{Outbox, OutboxError, Store, chunks::chunks, store::Names, taken::Operation};
use crate::context;

/// An event that is not published yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DelayedEvent {
    /// The event's id, by which it is cancelled.
    pub id: EventId,
    /// When it is published.
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

/// An event and when it is to be published.
#[derive(Debug)]
pub struct Delayed {
    /// The event.
    pub envelope: Envelope,
    /// From when on.
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

    /// Removes an event; false when it is not there, or not there any more.
    fn cancel(
        connection: &mut Self::Connection,
        names: &Names,
        event: EventId,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// The next events, of one key or of all, at most `limit`.
    fn coming(
        connection: &mut Self::Connection,
        names: &Names,
        key: Option<&str>,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<DelayedEvent>, sqlx::Error>> + Send;

    /// Moves what is due into the log, in the order (due, place), at most `most` events, in one
    /// transaction; returns how many. Waits for nobody: what a transaction is about to cancel stays until
    /// that has ended, and so do the later events of its key.
    fn move_due(
        connection: &mut Self::Connection,
        names: &Names,
        most: u32,
    ) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;
}

impl Delayed {
    /// A time before 1970 is 1970: what is past is due, and not every database knows all of history.
    pub(super) fn new(envelope: Envelope, due: DateTime<Utc>) -> Self {
        Self {
            envelope,
            due: due.max(DateTime::UNIX_EPOCH),
        }
    }
}

impl<DB: Store> Outbox<DB> {
    /// Writes an event that is published at `due` and not before, in a transaction that the caller owns
    /// and commits. A time that is past means at once. What [`Outbox::enqueue`] says of order and of the
    /// relay holds for this, too: a relay that is idle knows of the event 250 ms after the commit.
    ///
    /// # Errors
    /// [`OutboxError`], also when an event with this id is delayed already; the transaction is then as the
    /// database leaves it, in Postgres aborted.
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

    /// Takes a delayed event back, in a transaction that the caller owns and commits. `false` when there
    /// is no such event, or not any more: it is published, then. After `true` and a commit it never is. In a
    /// [replay](crate::Replays) nothing is taken back, which is counted, unless follow-up events are wanted: `false`.
    ///
    /// # Errors
    /// [`OutboxError`]; nothing is cancelled then.
    pub async fn cancel(
        &self,
        tx: &mut sqlx::Transaction<'_, DB>,
        id: EventId,
    ) -> Result<bool, OutboxError> {
        self.cancel_on(tx, id).await
    }

    /// The same, on the connection of the transaction.
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

    /// The delayed events that are published next, of one key or of all, at most `limit`.
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

    /// Writes delayed events, a statement for each chunk of them.
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

    /// Writes one event in a transaction of its own, to be published at `due`, or at once. Unlike a transaction of
    /// yours it waits for no lock for longer than five seconds, and says who has it.
    ///
    /// # Errors
    /// [`OutboxError`]; nothing is written, unless the answer to a commit was lost.
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

/// What it means that one of these events has the id of one that is there.
fn is_delayed_already(error: OutboxError, events: &[Delayed]) -> OutboxError {
    let source = match error {
        OutboxError::Database(source) => source,
        error => return error,
    };
    let said = source.as_database_error();
    if !said.is_some_and(|said| said.is_unique_violation()) {
        return OutboxError::Database(source);
    }
    let event = match events {
        [one] => Some(one.envelope.id()),
        _ => None,
    };
    OutboxError::AlreadyDelayed { event, source }
}

/// How long until an event is due, as a database says it in seconds; nothing when that is past.
pub(super) fn due_in(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}
