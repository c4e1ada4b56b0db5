//! What is known of an event, place by place. Never reads anything.

use chrono::{DateTime, Utc};
use serde::Serialize;
use tidings_contract::EventId;

/// What was found, and where it was looked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Traced {
    /// The events, the oldest first.
    pub events: Vec<TracedEvent>,
    /// Where they were looked for, and how far.
    pub searched: Vec<Searched>,
}

/// A place that was searched, or why it was not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Searched {
    /// `outbox`, or the name of a stream.
    pub place: String,
    /// How far, in words; why not, when it was not.
    pub what: String,
    /// Whether it was.
    pub was_searched: bool,
    /// Whether it could not be looked at, and may hold what is not told. A place that is not there is seen.
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
    /// The payload's version; 0 when a foreign publisher did not say.
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
    /// The batches that had it, as far as the ledger knows.
    pub batches: Vec<TracedBatch>,
    /// Where it is stored; more than one place when it was stored again.
    pub stored: Vec<StoredEvent>,
    /// Why it is in no stream, or why that is not known.
    pub unstored: Option<String>,
    /// Where another event has its id, in words.
    #[serde(skip)]
    pub(super) taken: Option<String>,
    /// What became of it, subscriber by subscriber.
    pub subscribers: Vec<SubscriberTrace>,
    /// Why no subscriber is named, when none is.
    pub unheard: Option<String>,
}

/// What the outbox knows of an event.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
#[non_exhaustive]
pub enum OutboxTrace {
    /// Nobody has asked it.
    NotSearched {
        /// Why.
        why: String,
    },
    /// It has no row of it.
    Absent {
        /// What that means.
        why: String,
    },
    /// It is committed; the relay has not got past it.
    Waiting {
        /// Its place in the outbox.
        row: i64,
        /// When it was written.
        written_at: DateTime<Utc>,
        /// What the relay does, and what hinders it.
        relay: Vec<String>,
    },
    /// The relay has got past it.
    Relayed {
        /// Its place in the outbox.
        row: i64,
        /// When it was written.
        written_at: DateTime<Utc>,
    },
    /// It is put aside.
    Parked {
        /// Its place in the outbox.
        row: i64,
        /// When it was written.
        written_at: DateTime<Utc>,
        /// When it was put aside.
        parked_at: DateTime<Utc>,
        /// Why.
        error: String,
        /// What it waits for, to go back by itself.
        waits_for: Option<String>,
        /// When somebody asked for it to be published.
        asked_at: Option<DateTime<Utc>>,
        /// Whether it goes back without a decision: for one of these, or with an earlier event of its key.
        goes_back: bool,
    },
    /// It was parked, and is given up.
    Discarded {
        /// Its place in the outbox.
        row: i64,
        /// When it was written.
        written_at: DateTime<Utc>,
        /// When it was given up.
        discarded_at: DateTime<Utc>,
    },
    /// It is published later.
    Delayed {
        /// When it was written.
        written_at: DateTime<Utc>,
        /// When it is published.
        due: DateTime<Utc>,
    },
}

/// A batch that a stream has confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TracedBatch {
    /// When that was written down.
    pub at: DateTime<Utc>,
    /// The epoch of the relay's lease: it rises with every take-over and every fault. 0 when it was published again,
    /// by a repair or by hand.
    pub epoch: i64,
    /// How many events.
    pub events: u64,
    /// The lowest place in the outbox.
    pub first_row: i64,
    /// The highest place in the outbox.
    pub last_row: i64,
    /// The stream.
    pub stream: String,
    /// When the stream was created, in the server's words.
    pub incarnation: String,
    /// The sequence of the first event.
    pub first_sequence: u64,
    /// The sequence of the last event.
    pub last_sequence: u64,
}

/// A place in a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StoredEvent {
    /// The stream.
    pub stream: String,
    /// The sequence.
    pub sequence: u64,
    /// When the server stored it.
    pub stored_at: Option<DateTime<Utc>>,
    /// Whether it is there now.
    pub is_there: bool,
    #[serde(skip)]
    pub(super) incarnation: String,
    /// What no other message ever has.
    #[serde(skip)]
    pub(super) identity: String,
}

/// What became of an event at one subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SubscriberTrace {
    /// The subscriber.
    pub subscriber: String,
    /// What can be concluded from the rest.
    pub outcome: TracedOutcome,
    /// How far its consumer is.
    pub delivery: DeliveryTrace,
    /// Until when it is paused, if it is.
    pub paused_until: Option<DateTime<Utc>>,
    /// Its next attempt, when the event waits for one.
    pub retry: Option<RetryTrace>,
    /// Its dead letters of the event.
    pub dead_letters: Vec<DeadLetterTrace>,
    /// What the inbox of this database remembers; nothing of a subscriber that has none, or has it elsewhere.
    pub inbox: Option<InboxTrace>,
    /// The replays that have it in their range, the oldest first.
    pub replays: Vec<ReplayTrace>,
}

/// What an inbox remembers of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
#[non_exhaustive]
pub enum InboxTrace {
    /// It was handled.
    Handled,
    /// It was given up; the letter may have been redriven or discarded since.
    GivenUp {
        /// When.
        at: Option<DateTime<Utc>>,
        /// The kind of cause.
        cause: String,
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
    /// When it was asked for.
    pub created_at: Option<DateTime<Utc>>,
    /// Whether it runs: `running`, `paused`, `done` and so on; nothing when it is forgotten.
    pub state: Option<&'static str>,
    /// What the inbox of this database remembers.
    pub inbox: Option<InboxTrace>,
}

/// What can be concluded about an event and a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum TracedOutcome {
    /// It was not delivered.
    NotDelivered,
    /// It was delivered, and may be in hand.
    Delivered,
    /// It waits for its next attempt.
    WaitsForRetry,
    /// It was given up.
    DeadLetter,
    /// It was handled.
    Handled,
    /// It was answered, and nothing says how.
    Answered,
    /// It will not be delivered: it lies before where the subscriber begins.
    Before,
    /// Nothing is known.
    Unknown,
}

/// How far a consumer is, seen from one event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
#[non_exhaustive]
pub enum DeliveryTrace {
    /// It has not come to it.
    NotYet {
        /// The last sequence that was delivered.
        delivered: u64,
    },
    /// It was delivered; the server does not say of which of these whether they are answered.
    Delivered {
        /// The sequence up to which everything is answered.
        floor: u64,
        /// The last sequence that was delivered.
        delivered: u64,
    },
    /// It is answered.
    Answered {
        /// The sequence up to which everything is answered.
        floor: u64,
    },
    /// The consumer began behind it.
    Before {
        /// Where, in words.
        beginning: String,
    },
    /// It cannot be told.
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
    /// When it first did.
    pub first_failed_at: Option<DateTime<Utc>>,
    /// When it is tried again; nothing when that is now.
    pub due: Option<DateTime<Utc>>,
    /// How often it was redriven before.
    pub redrives: u32,
    /// Since when it waits.
    pub since: DateTime<Utc>,
}

/// A dead letter of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DeadLetterTrace {
    /// Its sequence in the stream of dead letters.
    pub letter: u64,
    /// When it was stored.
    pub at: DateTime<Utc>,
    /// The kind of cause.
    pub cause: Option<String>,
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

    /// Concludes. The last thing that happened counts: a letter that is still there is behind every attempt.
    pub(super) fn conclude(&mut self) {
        self.outcome = match &self.delivery {
            _ if self.retry.is_some() => TracedOutcome::WaitsForRetry,
            _ if self.inbox == Some(InboxTrace::Handled) => TracedOutcome::Handled,
            _ if self.inbox.is_some() || !self.dead_letters.is_empty() => TracedOutcome::DeadLetter,
            DeliveryTrace::NotYet { .. } => TracedOutcome::NotDelivered,
            DeliveryTrace::Delivered { .. } => TracedOutcome::Delivered,
            DeliveryTrace::Answered { .. } => TracedOutcome::Answered,
            DeliveryTrace::Before { .. } => TracedOutcome::Before,
            DeliveryTrace::Unknown { .. } => TracedOutcome::Unknown,
        };
    }
}
