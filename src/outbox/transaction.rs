//! A database transaction with the events that commit with it. Never publishes to NATS.

use std::ops::{Deref, DerefMut};

use chrono::{DateTime, Utc};
use sqlx::Connection;
use tidings_contract::{Envelope, EventId, IntoEnvelope};
use tokio::time::Instant;

use super::{
    Outbox, OutboxError, Store,
    distinct::distinct,
    inbox::Concluded,
    link::{self, Waits},
    store::{delayed::Delayed, leased_connection::LeasedConnection, sessions::Backend},
};
use crate::handler::context;

/// A transaction of the outbox's database. It derefs to the sqlx connection; events that are published in it become
/// visible when it commits, and are gone when it is rolled back or dropped.
///
/// Events are buffered and written as the last statement before COMMIT, after all locks of the transaction are taken:
/// so the events of one key are in the order in which their transactions took effect.
#[must_use = "a transaction that is dropped is rolled back"]
pub struct OutboxTransaction<DB: Store> {
    tx: LeasedConnection<DB>,
    /// The transaction at the server, if it is known.
    backend: Option<Backend>,
    /// Whether the caller has used the connection.
    is_used: bool,
    /// When the pool handed out the connection.
    taken: Instant,
    outbox: Outbox<DB>,
    events: Vec<Envelope>,
    delayed: Vec<Delayed>,
}

impl<DB: Store> OutboxTransaction<DB> {
    pub(super) fn new(tx: LeasedConnection<DB>, outbox: Outbox<DB>) -> Self {
        Self {
            tx,
            backend: None,
            is_used: false,
            taken: Instant::now(),
            outbox,
            events: Vec::new(),
            delayed: Vec::new(),
        }
    }

    /// Sets when the pool handed out the connection.
    pub(super) fn taken(mut self, taken: Instant) -> Self {
        self.taken = taken;
        self
    }

    /// Sets which transaction this is at the server.
    pub(super) fn of(mut self, backend: Option<Backend>) -> Self {
        self.backend = backend;
        self
    }

    pub(super) fn backend(&self) -> Option<Backend> {
        self.backend
    }

    /// Ends the transaction after an error; closes the connection when that has lost its server.
    pub(super) fn lost(self, error: OutboxError) -> OutboxError {
        if link::is_lost(&error) {
            self.tx.close();
        }
        error
    }

    /// Ends the transaction and closes its connection.
    pub(super) fn close(self) {
        self.tx.close();
    }

    /// Adds an event, or an [`Envelope`] with further metadata. Validates it now: name, key, headers, size. In a
    /// [replay](crate::replays::Replays) the event is only counted, unless the replay publishes follow-up events.
    ///
    /// # Errors
    /// [`OutboxError::Envelope`] or [`OutboxError::TooLarge`]; the transaction remains usable.
    pub fn publish(&mut self, event: impl IntoEnvelope) -> Result<EventId, OutboxError> {
        let envelope = self.outbox.checked(event)?;
        let id = envelope.id();
        if !context::suppresses(1) {
            self.events.push(envelope);
        }
        Ok(id)
    }

    /// Adds many events, in their order, each as [`OutboxTransaction::publish`] does. A commit writes a thousand of
    /// them with one statement.
    ///
    /// # Errors
    /// As for [`OutboxTransaction::publish`]; none of them is added then.
    pub fn publish_all<E: IntoEnvelope>(
        &mut self,
        events: impl IntoIterator<Item = E>,
    ) -> Result<Vec<EventId>, OutboxError> {
        let envelopes = self.outbox.all_checked(events)?;
        let ids = envelopes.iter().map(Envelope::id).collect();
        if !context::suppresses(envelopes.len()) {
            self.events.extend(envelopes);
        }
        Ok(ids)
    }

    /// Adds an event that is published at `due`, and not before, by the database's clock; at once when that is past.
    /// Until then [`Outbox::cancel`] cancels it by its id. Events of one key that are due enter the stream in the order
    /// of their due times, and of their commits where those are equal.
    ///
    /// # Errors
    /// As for [`OutboxTransaction::publish`]. A commit fails when an event with this id is delayed already.
    pub fn publish_at(
        &mut self,
        event: impl IntoEnvelope,
        due: DateTime<Utc>,
    ) -> Result<EventId, OutboxError> {
        let envelope = self.outbox.checked(event)?;
        let id = envelope.id();
        if !context::suppresses(1) {
            self.delayed.push(Delayed::new(envelope, due));
        }
        Ok(id)
    }

    /// Cancels a delayed event when this transaction commits; as [`Outbox::cancel`].
    ///
    /// # Errors
    /// [`OutboxError::Database`]; the database then decides the state of the transaction: in Postgres it is aborted.
    ///
    /// # Cancel safety
    /// As for [`Outbox::cancel`].
    pub async fn cancel(&mut self, id: EventId) -> Result<bool, OutboxError> {
        self.outbox.cancel_on(&mut self.tx, id).await
    }

    /// Writes the events, commits, and wakes the relay. The same event twice is written once.
    ///
    /// # Errors
    /// [`OutboxError::DuplicateId`] when two different events have one id, or when one of them is also delayed: nothing is
    /// committed. [`OutboxError::Database`] when the database failed: before COMMIT was sent, nothing is committed;
    /// when the answer to it was lost, the outcome is unknown. [`OutboxError::RolledBack`] when there is no transaction
    /// left to commit.
    ///
    /// # Cancel safety
    /// When the future is dropped, everything in the transaction is committed, or nothing.
    pub async fn commit(mut self) -> Result<(), OutboxError> {
        self.is_there().await?;
        let wakes = !self.is_empty();
        if wakes {
            self.write().await?;
        }
        let outbox = &self.outbox;
        let committing = outbox.attend(Waits::Statement(None), self.tx.commit());
        let committed = committing.await.unwrap_or_else(|| Err(link::lost()));
        committed.map_err(OutboxError::database)?;
        if wakes {
            outbox.shared.wake.committed();
        }
        Ok(())
    }

    /// Commits a transaction in which a statement may have failed without the caller reporting it; that is an error
    /// then. Returns false when the caller has ended the transaction, and perhaps begun another one: then nothing is
    /// committed.
    pub(super) async fn conclude(mut self) -> Result<bool, OutboxError> {
        let wakes = !self.is_empty();
        if wakes {
            self.is_there().await?;
            self.write().await?;
        }
        let mut connection = Concluded::new(self.tx);
        let concluded = connection.conclude().await;
        let concluded = concluded.map_err(OutboxError::database)?;
        let shared = &self.outbox.shared;
        if concluded {
            shared.idle_connections.keep(connection, self.taken);
        }
        if wakes && concluded {
            shared.wake.committed();
        }
        Ok(concluded)
    }

    /// Checks that the transaction still exists. When a savepoint's `begin` is dropped on its way, sqlx rolls back the
    /// whole transaction: events that are written afterwards would commit by themselves.
    async fn is_there(&mut self) -> Result<(), OutboxError> {
        if self.is_used && !DB::IS_REMOTE {
            // The connection's thread counts the transactions, and may not have processed the rollback yet.
            let pinged = Connection::ping(&mut *self.tx).await;
            pinged.map_err(OutboxError::database)?;
        }
        match self.tx.is_in_transaction() {
            true => Ok(()),
            false => Err(OutboxError::RolledBack),
        }
    }

    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.delayed.is_empty()
    }

    async fn write(&mut self) -> Result<(), OutboxError> {
        distinct(&mut self.events, &self.delayed)?;
        self.outbox.delay(&mut self.tx, &self.delayed).await?;
        self.outbox.insert(&mut self.tx, &self.events).await
    }

    /// Rolls back, so that nothing of the transaction remains. Dropping it does the same.
    ///
    /// # Errors
    /// [`OutboxError::Database`] when the connection is lost; nothing is committed then either.
    ///
    /// # Cancel safety
    /// When the future is dropped, the transaction is rolled back too.
    pub async fn rollback(self) -> Result<(), OutboxError> {
        let rolled_back = Concluded::new(self.tx).roll_back().await;
        rolled_back.map_err(OutboxError::database)
    }
}

impl<DB: Store> Deref for OutboxTransaction<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &Self::Target {
        &self.tx
    }
}

impl<DB: Store> DerefMut for OutboxTransaction<DB> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.is_used = true;
        &mut self.tx
    }
}

impl<DB: Store> std::fmt::Debug for OutboxTransaction<DB> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutboxTransaction")
            .field("events", &self.events.len())
            .field("delayed", &self.delayed.len())
            .finish_non_exhaustive()
    }
}
