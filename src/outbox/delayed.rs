//! Delayed events: written beside the log, and listed and cancelled there. Never decides that one is due: the relay
//! moves it into the log then, by the database's clock.

use chrono::{DateTime, Utc};
use tidings_contract::{EventId, IntoEnvelope};

use super::{
    Outbox, OutboxError, Store,
    operate::Operation,
    store::{
        chunks::chunks,
        delayed::{Delayed, DelayedEvent},
    },
};
use crate::handler::context;

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
        self.translated(cancelled).await
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
            let told = self.translated(delayed).await;
            told.map_err(|error| is_delayed_already(error, chunk))?;
        }
        self.has_enqueued(events.len());
        Ok(())
    }

    /// Writes one event in its own transaction, to be published at `due`, or at once. Unlike a transaction of the
    /// caller it waits for a lock for five seconds at most, and then names the holder.
    ///
    /// # Errors
    /// [`OutboxError`]; nothing is written, unless the answer to a commit was lost.
    ///
    /// # Cancel safety
    /// When the future is dropped, the event may or may not be written. Calling it again with the same [`Envelope`](tidings_contract::Envelope) is
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
