//! The transaction that a handler gets: it holds the event's row in the inbox. Never commits; the lender does.

use std::ops::{Deref, DerefMut};

use chrono::{DateTime, Utc};
use tidings_contract::{EventId, IntoEnvelope};
use tokio::sync::oneshot;

use crate::outbox::{OutboxError, OutboxTransaction, Store};

/// A transaction that remembers the event which is being handled. It derefs to the sqlx connection: the handler's
/// writes, the events that it publishes in the transaction, and the inbox row of the event commit together when the
/// handler returns `Ok`, or not at all.
///
/// It is returned when it is dropped, normally at the end of the handler. A handler whose transaction outlives it,
/// in a spawned task for instance, has failed, and nothing is committed.
pub struct InboxTransaction<DB: Store> {
    /// Taken on drop, and never before.
    lent: Option<(
        OutboxTransaction<DB>,
        oneshot::Sender<OutboxTransaction<DB>>,
    )>,
}

/// Receives a lent transaction when it is dropped.
pub(super) struct Lent<DB: Store>(oneshot::Receiver<OutboxTransaction<DB>>);

impl<DB: Store> Lent<DB> {
    /// Returns the transaction, when the borrower has dropped it.
    pub(super) fn back(mut self) -> Option<OutboxTransaction<DB>> {
        self.0.try_recv().ok()
    }
}

impl<DB: Store> InboxTransaction<DB> {
    pub(super) fn lend(tx: OutboxTransaction<DB>) -> (Self, Lent<DB>) {
        let (sender, receiver) = oneshot::channel();
        let lent = Self {
            lent: Some((tx, sender)),
        };
        (lent, Lent(receiver))
    }

    /// Adds an event; as [`OutboxTransaction::publish`]. It inherits the correlation and causation of the handled
    /// event.
    ///
    /// # Errors
    /// As for [`OutboxTransaction::publish`]; the transaction is unharmed.
    pub fn publish(&mut self, event: impl IntoEnvelope) -> Result<EventId, OutboxError> {
        self.tx().publish(event)
    }

    /// Adds many events, in their order; as [`OutboxTransaction::publish_all`].
    ///
    /// # Errors
    /// As for [`OutboxTransaction::publish_all`]; none of them is added then.
    pub fn publish_all<E: IntoEnvelope>(
        &mut self,
        events: impl IntoIterator<Item = E>,
    ) -> Result<Vec<EventId>, OutboxError> {
        self.tx().publish_all(events)
    }

    /// Adds an event that is published at `due`; as [`OutboxTransaction::publish_at`].
    ///
    /// # Errors
    /// As for [`OutboxTransaction::publish_at`].
    pub fn publish_at(
        &mut self,
        event: impl IntoEnvelope,
        due: DateTime<Utc>,
    ) -> Result<EventId, OutboxError> {
        self.tx().publish_at(event, due)
    }

    /// Cancels a delayed event; as [`OutboxTransaction::cancel`].
    ///
    /// # Errors
    /// As for [`OutboxTransaction::cancel`].
    ///
    /// # Cancel safety
    /// As for [`OutboxTransaction::cancel`].
    pub async fn cancel(&mut self, id: EventId) -> Result<bool, OutboxError> {
        self.tx().cancel(id).await
    }

    #[allow(clippy::expect_used)] // only `drop` takes it
    fn tx(&mut self) -> &mut OutboxTransaction<DB> {
        let (tx, _) = self.lent.as_mut().expect("it is lent until it is dropped");
        tx
    }
}

impl<DB: Store> Deref for InboxTransaction<DB> {
    type Target = DB::Connection;

    #[allow(clippy::expect_used)] // only `drop` takes it
    fn deref(&self) -> &Self::Target {
        let (tx, _) = self.lent.as_ref().expect("it is lent until it is dropped");
        tx
    }
}

impl<DB: Store> DerefMut for InboxTransaction<DB> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.tx()
    }
}

impl<DB: Store> Drop for InboxTransaction<DB> {
    fn drop(&mut self) {
        if let Some((tx, back)) = self.lent.take() {
            // When the lender no longer waits, the transaction is dropped, and rolled back.
            let _ = back.send(tx);
        }
    }
}

impl<DB: Store> std::fmt::Debug for InboxTransaction<DB> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tx = self.lent.as_ref().map(|(tx, _)| tx);
        f.debug_tuple("InboxTransaction").field(&tx).finish()
    }
}
