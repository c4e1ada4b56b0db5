//! A database transaction with the events that commit with it. Never publishes to NATS.

use std::ops::{Deref, DerefMut};

use tidings_contract::{Envelope, EventId, IntoEnvelope};

use super::{Outbox, OutboxError, Store};

/// A transaction of the outbox's database. It derefs to the sqlx connection; what is published in it
/// becomes visible when it commits, and is gone when it is rolled back or dropped.
///
/// Events are buffered and written as the last statement before COMMIT, after every lock that the
/// transaction takes: this is what makes the order of the events of one key the order in which their
/// transactions took effect.
#[must_use = "a transaction that is dropped is rolled back"]
pub struct OutboxTransaction<DB: Store> {
    tx: sqlx::Transaction<'static, DB>,
    outbox: Outbox<DB>,
    events: Vec<Envelope>,
}

impl<DB: Store> OutboxTransaction<DB> {
    pub(super) fn new(tx: sqlx::Transaction<'static, DB>, outbox: Outbox<DB>) -> Self {
        Self {
            tx,
            outbox,
            events: Vec::new(),
        }
    }

    /// Adds an event, or an [`Envelope`] with more said about it. Whatever can be refused is refused
    /// now: name, key, headers, size.
    ///
    /// # Errors
    /// [`OutboxError::Envelope`] or [`OutboxError::TooLarge`]; the transaction is unharmed.
    pub fn publish(&mut self, event: impl IntoEnvelope) -> Result<EventId, OutboxError> {
        let envelope = self.outbox.checked(event)?;
        let id = envelope.id();
        self.events.push(envelope);
        Ok(id)
    }

    /// Writes the events, commits, and wakes the relay.
    ///
    /// # Errors
    /// [`OutboxError::Database`] when the database failed: before COMMIT was sent nothing is committed;
    /// when its answer was lost it is unknown.
    pub async fn commit(mut self) -> Result<(), OutboxError> {
        if self.events.is_empty() {
            return self.tx.commit().await.map_err(OutboxError::Database);
        }
        self.outbox.insert(&mut self.tx, &self.events).await?;
        self.tx.commit().await.map_err(OutboxError::Database)?;
        self.outbox.shared.wake.committed();
        Ok(())
    }

    /// Leaves nothing, as if the transaction had never been. Dropping it does the same.
    ///
    /// # Errors
    /// [`OutboxError::Database`] when the connection is lost; nothing is committed then either.
    pub async fn rollback(self) -> Result<(), OutboxError> {
        self.tx.rollback().await.map_err(OutboxError::Database)
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
        &mut self.tx
    }
}

impl<DB: Store> std::fmt::Debug for OutboxTransaction<DB> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutboxTransaction")
            .field("events", &self.events.len())
            .finish_non_exhaustive()
    }
}
