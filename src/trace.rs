//! Where an event is: in the outbox, on its way, in a stream, at its subscribers. Only reads.
//!
//! What is known is written in different places by whoever does something: the outbox and its ledger, the streams,
//! the consumers, the retries, the dead letters, the inbox. They are put together here; what none of them knows is
//! said to be unknown, and why.

mod explain;
mod found;
mod inventory;
mod records;
mod report;
mod search;
mod streams;
mod subscribers;
mod told;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tidings_contract::{Envelope, EventId};

use crate::bus::{Bus, BusError};
use records::Records;
pub use report::{
    DeadLetterTrace, DeliveryTrace, InboxTrace, OutboxTrace, ReplayTrace, RetryTrace, Searched,
    StoredEvent, SubscriberTrace, Traced, TracedBatch, TracedEvent, TracedOutcome,
};
use search::Search;

/// How many events are told of at most.
const EVENTS: usize = 20;
/// How many messages of a stream are read at most.
const MESSAGES: u64 = 1_000_000;

/// Finds out where events are.
///
/// Without an outbox it tells what NATS knows, and without NATS what the outbox knows; what could not be seen is said.
/// An event is found by its id in the outbox's ledger, else by reading
/// the headers of the streams from the time on that is in the id; a key or a correlation id in the outbox and in the
/// headers of the last day. Of each stream a million messages are read at most, the newest.
///
/// ```no_run
/// use tidings::{Bus, Outbox, Sought, Trace};
///
/// # async fn example(bus: Bus, outbox: Outbox<sqlx::Postgres>) -> Result<(), tidings::TraceError> {
/// let found = Trace::over(&bus).outbox(&outbox).run(&Sought::Key("ada".into())).await?;
/// for event in found.events {
///     println!("{} {}: {:?}", event.event, event.name, event.stored);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Trace {
    bus: Option<Bus>,
    /// Why there is none.
    without_bus: String,
    records: Option<Arc<dyn Records>>,
    /// Why there are none.
    without: String,
    /// Whether there are some, which cannot be asked.
    are_unseen: bool,
    streams: Vec<String>,
    since: Option<DateTime<Utc>>,
    limit: usize,
    messages: u64,
}

/// What is sought.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sought {
    /// One event.
    Event(EventId),
    /// The events of a key.
    Key(String),
    /// The events of a conversation: its first one and all that followed.
    Correlation(String),
}

/// Why nothing can be searched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// NATS does not answer, and there is no outbox that does.
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl Trace {
    /// Traces events in the streams of the account: first in those that have subscribers, and then in the others, too,
    /// unless it is known already where the event is.
    #[must_use]
    pub fn over(bus: &Bus) -> Self {
        Self {
            bus: Some(bus.clone()),
            ..Self::without_nats(String::new())
        }
    }

    /// Traces events in an [outbox](Trace::outbox) alone, because NATS cannot be asked, and why.
    #[must_use]
    pub fn without_nats(why: impl Into<String>) -> Self {
        Self {
            bus: None,
            without_bus: why.into(),
            records: None,
            without: "no database was named".to_owned(),
            are_unseen: false,
            streams: Vec::new(),
            since: None,
            limit: EVENTS,
            messages: MESSAGES,
        }
    }

    /// Traces them in an outbox too, and first in the streams that its relay knows.
    #[cfg(feature = "outbox")]
    #[must_use]
    pub fn outbox<DB: crate::outbox::Store>(mut self, outbox: &crate::outbox::Outbox<DB>) -> Self {
        self.records = Some(Arc::new(outbox.clone()));
        self
    }

    /// Says why there is no outbox.
    #[must_use]
    pub fn without_outbox(mut self, why: impl Into<String>) -> Self {
        self.without = why.into();
        self
    }

    /// Says why the outbox, which is there, cannot be asked.
    #[must_use]
    pub fn unseen_outbox(mut self, why: impl Into<String>) -> Self {
        self.are_unseen = true;
        self.without_outbox(why)
    }

    /// Traces them in these streams first, too. One that cannot be read is told as such, wherever the event is.
    #[must_use]
    pub fn streams<T: Into<String>>(mut self, streams: impl IntoIterator<Item = T>) -> Self {
        self.streams.extend(streams.into_iter().map(Into::into));
        self
    }

    /// Reads streams, and for a key or a correlation the outbox, from then on.
    #[must_use]
    pub fn since(mut self, since: DateTime<Utc>) -> Self {
        self.since = Some(since);
        self
    }

    /// Tells of so many events at most, the newest; 20 by default.
    #[must_use]
    pub fn limit(mut self, events: usize) -> Self {
        self.limit = events.max(1);
        self
    }

    /// Reads so many messages of a stream at most, the newest; a million by default.
    #[must_use]
    pub fn messages(mut self, messages: u64) -> Self {
        self.messages = messages.max(1);
        self
    }

    /// Searches. What does not answer is told among what was searched, with why, and hides nothing of the rest.
    ///
    /// # Errors
    /// [`TraceError`] when NATS does not answer, and there is no outbox that does.
    pub async fn run(&self, sought: &Sought) -> Result<Traced, TraceError> {
        Search::new(self, sought).run().await
    }
}

impl Sought {
    /// Whether an event is meant.
    fn means(&self, envelope: &Envelope) -> bool {
        match self {
            Self::Event(event) => envelope.id() == *event,
            Self::Key(key) => envelope.key() == Some(key),
            Self::Correlation(id) => envelope.correlation_id() == *id,
        }
    }
}
