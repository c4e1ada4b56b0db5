//! The report of a trace: what is known of an event in each place. Never reads anything.

use chrono::{DateTime, Utc};
use serde::Serialize;
use tidings_contract::EventId;

use crate::{policy::outcome::Cause, replay::ReplayState};

/// The events that were found, and where the search looked.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Traced {
    /// The events, the oldest first.
    pub events: Vec<TracedEvent>,
    /// Where the search looked, and how far.
    pub searched: Vec<Searched>,
}

/// A place that was searched, or the reason why it was not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Searched {
    /// `outbox`, or the name of a stream.
    pub place: String,
    /// How far, as text; the reason when it was not searched.
    pub what: String,
    /// Whether it was searched.
    pub was_searched: bool,
    /// Whether the place could not be read, and may hold something that is not reported. False for a missing stream.
    pub is_unseen: bool,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TracedEvent {
    /// Its id.
    pub event: EventId,
    /// Its name.
    pub name: String,
    /// The payload's version; 0 when a foreign publisher did not give one.
    pub version: u32,
    /// Its key.
    pub key: Option<String>,
    /// The conversation that it belongs to.
    pub correlation_id: String,
    /// The event that caused it.
    pub causation_id: Option<String>,
    /// The service that published it.
    pub source: Option<String>,
    /// What the outbox knows.
    pub outbox: OutboxTrace,
    /// The batches that contained it, as far as the ledger knows.
    pub batches: Vec<TracedBatch>,
    /// Where it is stored; more than one position when it was stored again.
    pub stored: Vec<StoredEvent>,
    /// Why it is in no stream, or why that is not known.
    pub unstored: Option<String>,
    /// Where another event has its id, as text.
    #[serde(skip)]
    pub(super) taken: Option<String>,
    /// The result at each subscriber.
    pub subscribers: Vec<SubscriberTrace>,
    /// Why no subscriber is listed, when none is.
    pub unheard: Option<String>,
}

/// What the outbox knows of an event.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
#[non_exhaustive]
pub enum OutboxTrace {
    /// The outbox was not searched.
    NotSearched {
        /// Why.
        why: String,
    },
    /// The outbox has no row of the event.
    Absent {
        /// What that means.
        why: String,
    },
    /// It is committed; the relay's cursor has not passed it.
    Waiting {
        /// Its row id.
        row: i64,
        /// When it was written.
        written_at: DateTime<Utc>,
        /// What the relay does, and its issues.
        relay: Vec<String>,
    },
    /// The relay's cursor has passed it.
    Relayed {
        /// Its row id.
        row: i64,
        /// When it was written.
        written_at: DateTime<Utc>,
    },
    /// It is parked.
    Parked {
        /// Its row id.
        row: i64,
        /// When it was written.
        written_at: DateTime<Utc>,
        /// When it was parked.
        parked_at: DateTime<Utc>,
        /// Why.
        error: String,
        /// The subject or stream that it is blocked on. It is restored when that takes events again.
        blocked_on: Option<String>,
        /// When an operator asked for it to be published.
        unpark_requested_at: Option<DateTime<Utc>>,
        /// Whether it is restored without a decision: for one of these reasons, or with an earlier event of its key.
        is_returning: bool,
    },
    /// It was discarded while it was parked.
    Discarded {
        /// Its row id.
        row: i64,
        /// When it was written.
        written_at: DateTime<Utc>,
        /// When it was discarded.
        discarded_at: DateTime<Utc>,
    },
    /// It is published later.
    Delayed {
        /// When it was written.
        written_at: DateTime<Utc>,
        /// When it is due.
        due: DateTime<Utc>,
    },
}

/// A batch that a stream has confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TracedBatch {
    /// When the ledger entry was written.
    pub at: DateTime<Utc>,
    /// The epoch of the relay's lease: it rises with every takeover and every fault. 0 when the batch was republished,
    /// by a repair or by an operator.
    pub epoch: i64,
    /// How many events it has.
    pub events: u64,
    /// The lowest row id.
    pub first_row: i64,
    /// The highest row id.
    pub last_row: i64,
    /// The stream.
    pub stream: String,
    /// When the stream was created, as the server reports it.
    pub incarnation: String,
    /// The sequence of the first event.
    pub first_sequence: u64,
    /// The sequence of the last event.
    pub last_sequence: u64,
}

/// A position in a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StoredEvent {
    /// The stream.
    pub stream: String,
    /// The sequence.
    pub sequence: u64,
    /// When the server stored it.
    pub stored_at: Option<DateTime<Utc>>,
    /// Whether the event is there now.
    pub is_there: bool,
    #[serde(skip)]
    pub(super) incarnation: String,
    /// The message's unique identity: no other message ever has the same.
    #[serde(skip)]
    pub(super) identity: String,
}

/// The result of an event at one subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SubscriberTrace {
    /// The subscriber.
    pub subscriber: String,
    /// The conclusion from the other fields.
    pub outcome: TracedOutcome,
    /// How far its consumer is.
    pub delivery: DeliveryTrace,
    /// Until when the subscriber is paused, if it is.
    pub paused_until: Option<DateTime<Utc>>,
    /// Its next attempt, when the event waits for one.
    pub retry: Option<RetryTrace>,
    /// Its dead letters of the event.
    pub dead_letters: Vec<DeadLetterTrace>,
    /// What the inbox of this database has; `None` for a subscriber that has no inbox, or has it elsewhere.
    pub inbox: Option<InboxTrace>,
    /// The replays that have the event in their range, the oldest first.
    pub replays: Vec<ReplayTrace>,
}

/// What an inbox has of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
#[non_exhaustive]
pub enum InboxTrace {
    /// It was handled.
    Handled,
    /// It was dead-lettered; the dead letter may have been redriven or discarded since.
    DeadLettered {
        /// When it was dead-lettered.
        at: Option<DateTime<Utc>>,
        /// The kind of cause.
        cause: Cause,
        /// The error's text.
        error: String,
    },
}

/// A replay that has an event in its range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReplayTrace {
    /// Its id.
    pub id: String,
    /// When it was requested.
    pub created_at: Option<DateTime<Utc>>,
    /// Its state; `None` when the replay is no longer stored.
    pub state: Option<ReplayState>,
    /// What the inbox of this database has.
    pub inbox: Option<InboxTrace>,
}

/// The conclusion about an event and a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum TracedOutcome {
    /// It was not delivered.
    NotDelivered,
    /// It was delivered, and may be in flight.
    Delivered,
    /// It waits for its next attempt.
    WaitsForRetry,
    /// It was dead-lettered.
    DeadLetter,
    /// It was handled.
    Handled,
    /// It was acknowledged, and no place records how it ended.
    Acknowledged,
    /// It will not be delivered: it lies before the subscriber's start.
    Before,
    /// Nothing is known.
    Unknown,
}

/// How far a consumer is, relative to one event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
#[non_exhaustive]
pub enum DeliveryTrace {
    /// The consumer has not reached it.
    NotYet {
        /// The last sequence that was delivered.
        delivered: u64,
    },
    /// It was delivered; the server does not report whether this one is acknowledged.
    Delivered {
        /// The sequence up to which everything is acknowledged.
        floor: u64,
        /// The last sequence that was delivered.
        delivered: u64,
    },
    /// It is acknowledged.
    Acknowledged {
        /// The sequence up to which everything is acknowledged.
        floor: u64,
    },
    /// The consumer started after it.
    Before {
        /// Where it started, as text.
        beginning: String,
    },
    /// The position cannot be determined.
    Unknown {
        /// Why.
        why: String,
    },
}

/// An event that waits for its next attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RetryTrace {
    /// How often it has failed.
    pub failures: u32,
    /// When it first failed.
    pub first_failed_at: Option<DateTime<Utc>>,
    /// When the next attempt is due; `None` when that is now.
    pub due: Option<DateTime<Utc>>,
    /// How often it was redriven before.
    pub redrives: u32,
    /// Since when it has waited.
    pub since: DateTime<Utc>,
}

/// A dead letter of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DeadLetterTrace {
    /// Its sequence in the dead-letter stream.
    pub sequence: u64,
    /// When it was stored.
    pub at: DateTime<Utc>,
    /// The kind of cause.
    pub cause: Option<Cause>,
    /// How many attempts there were.
    pub attempts: Option<u32>,
    /// The error's text.
    pub error: String,
    /// How often it was redriven before.
    pub redrives: u32,
}

impl SubscriberTrace {
    pub(super) fn new(subscriber: &str, delivery: DeliveryTrace) -> Self {
        Self {
            subscriber: subscriber.to_owned(),
            outcome: TracedOutcome::Unknown,
            delivery,
            paused_until: None,
            retry: None,
            dead_letters: Vec::new(),
            inbox: None,
            replays: Vec::new(),
        }
    }

    /// Draws the conclusion. The last thing that happened counts: a dead letter that still exists is newer than every
    /// attempt.
    pub(super) fn conclude(&mut self) {
        self.outcome = match &self.delivery {
            _ if self.retry.is_some() => TracedOutcome::WaitsForRetry,
            _ if self.inbox == Some(InboxTrace::Handled) => TracedOutcome::Handled,
            _ if self.inbox.is_some() || !self.dead_letters.is_empty() => TracedOutcome::DeadLetter,
            DeliveryTrace::NotYet { .. } => TracedOutcome::NotDelivered,
            DeliveryTrace::Delivered { .. } => TracedOutcome::Delivered,
            DeliveryTrace::Acknowledged { .. } => TracedOutcome::Acknowledged,
            DeliveryTrace::Before { .. } => TracedOutcome::Before,
            DeliveryTrace::Unknown { .. } => TracedOutcome::Unknown,
        };
    }
}
