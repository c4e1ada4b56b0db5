//! Where an event is: in the outbox, on its way, in a stream, at its subscribers. Only reads.
//!
//! The facts about an event are stored in different places: the outbox and its ledger, the streams, the consumers, the
//! retries, the dead letters, the inbox. They are combined here. What none of them holds is reported as unknown, with
//! the reason.

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

use crate::nats::{Bus, BusError};
use records::Records;
pub use report::{
    DeadLetterTrace, DeliveryTrace, InboxTrace, OutboxTrace, ReplayTrace, RetryTrace, Searched,
    StoredEvent, SubscriberTrace, Traced, TracedBatch, TracedEvent, TracedOutcome,
};
use search::Search;

/// The default maximum number of events that are reported.
const EVENTS: usize = 20;
/// The default maximum number of messages that are read per stream.
const MESSAGES: u64 = 1_000_000;

/// Finds events.
///
/// Without an outbox it reports what NATS holds, and without NATS what the outbox holds; what could not be read is
/// reported. An event is found by its id in the outbox's ledger, otherwise by reading the headers of the streams from
/// the time in the id. A key or a correlation id is looked up in the outbox and in the headers of the last day. At most
/// a million messages are read per stream, the newest.
///
/// ```no_run
/// use tidings::{Bus, Outbox, trace::{Trace, TraceTarget}};
///
/// # async fn example(bus: Bus, outbox: Outbox<sqlx::Postgres>) -> Result<(), tidings::trace::TraceError> {
/// let found = Trace::new(&bus).outbox(&outbox).run(&TraceTarget::Key("ada".into())).await?;
/// for event in found.events {
///     println!("{} {}: {:?}", event.event, event.name, event.stored);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Trace {
    bus: Option<Bus>,
    /// Why there is no connection.
    without_bus: String,
    records: Option<Arc<dyn Records>>,
    /// Why there is no outbox.
    without: String,
    /// Whether there is an outbox that cannot be read.
    are_unseen: bool,
    streams: Vec<String>,
    since: Option<DateTime<Utc>>,
    limit: usize,
    messages: u64,
}

/// Which events to trace.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TraceTarget {
    /// One event.
    Event(EventId),
    /// The events of a key.
    Key(String),
    /// The events of a conversation: the first one and all that followed from it.
    Correlation(String),
}

/// Why no search is possible.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// NATS does not answer, and there is no outbox that does.
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl Trace {
    /// Traces events in the streams of the account: first in those that have subscribers, then in the other streams,
    /// unless it is already known where the event is.
    #[must_use]
    pub fn new(bus: &Bus) -> Self {
        Self {
            bus: Some(bus.clone()),
            ..Self::without_nats(String::new())
        }
    }

    /// Traces events in an [outbox](Trace::outbox) alone; `why` states why NATS cannot be queried.
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

    /// Also traces events in an outbox, and first in the streams that its relay knows.
    #[cfg(feature = "outbox")]
    #[must_use]
    pub fn outbox<DB: crate::outbox::Store>(mut self, outbox: &crate::outbox::Outbox<DB>) -> Self {
        self.records = Some(Arc::new(outbox.clone()));
        self
    }

    /// States why there is no outbox.
    #[must_use]
    pub fn without_outbox(mut self, why: impl Into<String>) -> Self {
        self.without = why.into();
        self
    }

    /// States why an existing outbox cannot be read.
    #[must_use]
    pub fn unseen_outbox(mut self, why: impl Into<String>) -> Self {
        self.are_unseen = true;
        self.without_outbox(why)
    }

    /// Also traces events in these streams first. A stream that cannot be read is reported, wherever the event is.
    #[must_use]
    pub fn streams<T: Into<String>>(mut self, streams: impl IntoIterator<Item = T>) -> Self {
        self.streams.extend(streams.into_iter().map(Into::into));
        self
    }

    /// Reads streams, and for a key or a correlation id the outbox, from this time on.
    #[must_use]
    pub fn since(mut self, since: DateTime<Utc>) -> Self {
        self.since = Some(since);
        self
    }

    /// Reports at most this many events, the newest; 20 by default.
    #[must_use]
    pub fn limit(mut self, events: usize) -> Self {
        self.limit = events.max(1);
        self
    }

    /// Reads at most this many messages of a stream, the newest; a million by default.
    #[must_use]
    pub fn messages(mut self, messages: u64) -> Self {
        self.messages = messages.max(1);
        self
    }

    /// Runs the search. What does not answer is listed among the searched places with the reason, and does not hide the
    /// rest.
    ///
    /// # Errors
    /// [`TraceError`] when NATS does not answer, and there is no outbox that does.
    pub async fn run(&self, target: &TraceTarget) -> Result<Traced, TraceError> {
        Search::new(self, target).run().await
    }
}

impl TraceTarget {
    /// Whether an event matches.
    fn means(&self, envelope: &Envelope) -> bool {
        match self {
            Self::Event(event) => envelope.id() == *event,
            Self::Key(key) => envelope.key() == Some(key),
            Self::Correlation(id) => envelope.correlation_id() == *id,
        }
    }
}
