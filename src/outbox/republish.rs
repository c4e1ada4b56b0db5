//! Republishing rows: the republisher's lease, the rows themselves, and the ledger entries. Never decides which rows.

mod form;
mod lane;
mod patience;
mod reading;
mod sender;
mod sent;
mod streams;
mod tenure;

use std::time::Duration;

use super::{
    Outbox, OutboxError, Store,
    operate::Operation,
    store::{Entry, Rows},
};
use crate::nats::BusError;
pub(crate) use reading::Chosen;
pub(crate) use sender::{Ends, Sender, Sending};
pub(crate) use streams::Streams;

/// How long a republisher may be silent before another one may take over.
pub(super) const LEASE: Duration = Duration::from_secs(10);

/// Why events were not republished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepublishError {
    /// Another republisher has the lease.
    #[error("another republisher has the lease, or had it until a moment ago")]
    Busy,
    /// The relay does not run on this database either.
    #[error("{0}")]
    Refused(String),
    /// No stream takes the subject.
    #[error("no stream takes {subject}")]
    NoStream {
        /// The subject.
        subject: String,
    },
    /// With the prefix, the subject is not a valid event name.
    #[error("{subject} cannot be published: {reason}")]
    NotAName {
        /// The subject.
        subject: String,
        /// Why.
        reason: String,
    },
    /// The target stream is not the one that it was when this began.
    #[error("the stream {stream} was deleted, recreated or truncated since the republisher began")]
    Changed {
        /// The stream.
        stream: String,
    },
    /// The stream refuses an event.
    #[error("the stream {stream} does not take row {row}: {reason}")]
    NotTaken {
        /// The stream.
        stream: String,
        /// The row id in the outbox.
        row: i64,
        /// Why, as the server reports it.
        reason: String,
    },
    /// The stream has not confirmed an event for a minute.
    #[error("the stream {stream} does not confirm: {reason}")]
    Unconfirmed {
        /// The stream.
        stream: String,
        /// The last error.
        reason: String,
    },
    /// A stream cannot be read.
    #[error(transparent)]
    Stream(#[from] crate::nats::ReaderError),
    /// The outbox cannot be read or written.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The server does not answer.
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl<DB: Store> Outbox<DB> {
    /// Takes or renews the republisher's lease.
    pub(super) async fn claim_republish(&self, republisher: &str) -> Result<(), RepublishError> {
        let names = &self.shared.names;
        // In a copy the cursor means nothing, and an adoption needs the relay's row unchanged.
        let asking = async |connection: &mut DB::Connection| {
            if let Some(refusal) = DB::origin(connection, names).await?.refusal() {
                return Ok(Err(RepublishError::Refused(refusal)));
            }
            Ok(
                match DB::claim_republish(connection, names, republisher, LEASE).await? {
                    true => Ok(()),
                    false => Err(RepublishError::Busy),
                },
            )
        };
        self.operate(Operation::One, asking).await?
    }

    pub(super) async fn release_republish(&self, republisher: &str) -> Result<(), OutboxError> {
        let names = &self.shared.names;
        self.operate(Operation::One, async |connection| {
            DB::release_republish(connection, names, republisher).await
        })
        .await
    }

    pub(super) async fn record(&self, entries: &[Entry]) -> Result<(), OutboxError> {
        let names = &self.shared.names;
        self.operate(Operation::One, async |connection| {
            DB::record(connection, names, entries).await
        })
        .await
    }

    /// Returns the rows with these row ids, as many as fit into a page.
    pub(crate) async fn rows_at(&self, ids: &[i64]) -> Result<Rows, OutboxError> {
        let names = &self.shared.names;
        self.operate(Operation::Own, async |connection| {
            DB::rows_at(connection, names, ids).await
        })
        .await
    }
}
