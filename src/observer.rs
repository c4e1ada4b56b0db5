//! Passes what ends in a service to its observers: every end of a delivery that a worker has taken on, of a batch of the
//! relay, a redrive, a replay or a park goes through `Observers::tell`. Never decides anything, and never waits.
//!
//! The log is the first observer. A count or a metric is another one. Traces have a seam of their own, which is public:
//! [`TraceObserver`].

mod log;
pub(crate) mod traces;

use std::{
    fmt::{self, Debug, Display},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
pub use tidings_contract::Traceparent;
use tidings_contract::{Envelope, EventId};

pub use self::traces::{
    Attempt, AttemptEnd, AttemptScope, Delivered, InstalledError, Sending, Settlement, Settling,
    Stored, StoredBatch, TraceContext, TraceObserver, install,
};
use crate::{
    policy::{
        breaker::Change,
        failure::Fault,
        issue_kind::IssueKind,
        outcome::{DeadLetter, Outcome},
    },
    replay::{ReplayState, tag::ReplayId},
};

/// Receives what has ended.
pub(crate) trait Observer: Send + Sync {
    /// Returns at once: it is called between two steps of a delivery. It names each case, so that the compiler asks each
    /// observer about a new one.
    fn observe(&self, observation: &Observation<'_>);

    /// The observer of one subscriber with handlers for these names, when that is another one than this: it has looked
    /// up once what belongs to the subscriber.
    fn of_subscriber(&self, subscriber: &str, names: &[&'static str]) -> Option<Arc<dyn Observer>> {
        let _ = (subscriber, names);
        None
    }

    /// The observer of the relay of one outbox, when that is another one than this.
    #[cfg_attr(not(feature = "outbox"), allow(dead_code))] // asked by the relay only
    fn of_outbox(&self, schema: &str) -> Option<Arc<dyn Observer>> {
        let _ = schema;
        None
    }
}

/// The observers of one subscriber, or of one tool. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Observers(Arc<[Arc<dyn Observer>]>);

/// What has ended, or has changed.
#[derive(Clone, Copy)]
pub(crate) enum Observation<'a> {
    /// A delivery was taken in.
    Arrived,
    Delivery(DeliveryFacts<'a>, DeliveryEnd<'a>),
    /// What the relay has sent was answered.
    #[cfg_attr(not(feature = "outbox"), allow(dead_code))] // constructed by the relay only
    Batch(BatchEnd<'a>),
    /// A fault has ended the relay's work; it begins again by itself.
    #[cfg_attr(not(feature = "outbox"), allow(dead_code))] // constructed by the relay only
    Interrupted {
        kind: IssueKind,
    },
    /// The relay has parked so many events, which wait for this.
    #[cfg_attr(not(feature = "outbox"), allow(dead_code))] // constructed by the relay only
    Parked {
        blocked_on: Blocked,
        events: usize,
    },
    /// A dead letter has left its stream.
    DeadLetter(DeadLetterFacts<'a>, DeadLetterEnd),
    Replay {
        subscriber: &'a str,
        replay: ReplayId,
        change: ReplayChange<'a>,
    },
    Key {
        subscriber: &'a str,
        key: &'a str,
        change: KeyChange<'a>,
    },
    /// The lease of an ordered subscriber, or of a replay.
    Lease {
        subscriber: &'a str,
        change: LeaseChange,
    },
    Circuit {
        subscriber: &'a str,
        change: Change,
    },
}

/// The delivery that has ended.
#[derive(Clone, Copy)]
pub(crate) struct DeliveryFacts<'a> {
    pub(crate) subscriber: &'a str,
    /// `None` when the message is not an event.
    pub(crate) event: Option<&'a Envelope>,
    pub(crate) subject: &'a str,
    /// Where the event was first stored.
    pub(crate) stream: &'a str,
    pub(crate) sequence: u64,
    /// When the event was first stored.
    pub(crate) stored_at: DateTime<Utc>,
    /// How often the event was redriven.
    pub(crate) redrives: u32,
    pub(crate) replay: Option<ReplayId>,
}

/// How a delivery, or an attempt at it, has ended.
#[derive(Clone, Copy)]
pub(crate) enum DeliveryEnd<'a> {
    /// The outcome is decided. It is answered next, unless the event waits in flight; a dead letter is observed again when it
    /// is answered.
    Decided {
        attempt: u32,
        outcome: &'a Outcome,
        error: Option<&'a str>,
        /// What has failed the attempt; `None` when it succeeded, or when no handler was called.
        fault: Option<Fault>,
        elapsed: Duration,
    },
    /// The dead letter is stored; or the server has not confirmed it, and the event is redelivered.
    DeadLettered {
        letter: &'a DeadLetter,
        is_stored: bool,
        elapsed: Duration,
    },
    /// The dead letter that it had is lost, and is stored again.
    DeadLetterLost {
        /// When the event was dead-lettered.
        at: DateTime<Utc>,
    },
    /// The server has not confirmed the answer, at this try.
    Unconfirmed {
        answer: &'a str,
        tried: u32,
        error: &'a str,
    },
    /// The worker stops: another instance receives it.
    HandedBack,
    /// No handler of this instance takes its name.
    Unhandled {
        /// How often that has happened since the last line of the log; `None` when no line is due.
        unsaid: Option<u64>,
    },
    /// Its handler skips replays: it is acknowledged.
    Skipped,
    /// Its replay has ended: it is acknowledged.
    Dropped,
    /// Its replay leaves it out: it is acknowledged.
    Filtered,
    /// Its replay only reports what would happen: it is acknowledged.
    Rehearsed,
    /// JetStream has written the message itself: it is acknowledged.
    Marker,
    /// It was handled before: it is acknowledged again.
    HandledBefore,
    /// The worker stops while it waits for an attempt: another instance receives it.
    Returned,
}

/// Calls with the time at which each event of a batch was committed.
pub(crate) type EachTime<'a> = dyn Fn(&mut dyn FnMut(DateTime<Utc>)) + 'a;

/// A batch that the relay has sent, and its answer.
#[derive(Clone, Copy)]
pub(crate) struct BatchEnd<'a> {
    pub(crate) stream: &'a str,
    pub(crate) path: Path,
    pub(crate) events: usize,
    /// The payload of all of its events.
    pub(crate) bytes: usize,
    pub(crate) elapsed: Duration,
    pub(crate) committed: &'a EachTime<'a>,
    /// Why the server has refused the batch; `None` when these events are stored.
    pub(crate) refusal: Option<&'a dyn Display>,
    /// No answer came, or none that says whether the events are stored.
    pub(crate) is_unknown: bool,
}

/// What parked events wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "outbox"), allow(dead_code))] // constructed by the relay only
pub(crate) enum Blocked {
    /// An operator's decision.
    Decision,
    Stream,
    Subject,
}

/// How the relay has sent events.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "outbox"), allow(dead_code))] // constructed by the relay only
pub(crate) enum Path {
    /// In an atomic batch, which is stored or refused as a whole.
    Batch,
    /// Each by itself.
    Single,
}

/// A dead letter that was redriven or discarded.
#[derive(Clone, Copy)]
pub(crate) struct DeadLetterFacts<'a> {
    /// Its sequence in the stream of dead letters.
    pub(crate) sequence: u64,
    pub(crate) subscriber: &'a str,
    pub(crate) event: Option<EventId>,
    pub(crate) name: &'a str,
    pub(crate) key: Option<&'a str>,
}

/// How a dead letter has left its stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeadLetterEnd {
    Redriven,
    Discarded,
}

/// How a replay has changed.
#[derive(Clone, Copy)]
pub(crate) enum ReplayChange<'a> {
    /// This instance begins to work on it; so many of its events are completed.
    Running {
        completed: u64,
    },
    /// It makes no progress.
    Stalled {
        why: &'a str,
    },
    Continued,
    /// This instance stops to work on it.
    Stopped {
        end: &'a dyn Debug,
    },
    /// Its end is written.
    Ended {
        state: ReplayState,
    },
}

/// How a key has changed.
#[derive(Clone, Copy)]
pub(crate) enum KeyChange<'a> {
    /// Its events are dead-lettered from now on, because this one was.
    Parked {
        stream: &'a str,
        sequence: u64,
    },
    /// A redrive has not unparked it.
    StillParked,
    Unparked,
}

/// How the lease of an instance has changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseChange {
    Gained {
        revision: u64,
    },
    /// Another instance holds it.
    Standby,
    Lost,
}

impl Default for Observers {
    /// The log alone.
    fn default() -> Self {
        Self(Arc::new([Arc::new(log::Log::default())]))
    }
}

impl Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observers").field(&self.0.len()).finish()
    }
}

impl Observers {
    /// Adds an observer.
    pub(crate) fn and(&self, observer: Arc<dyn Observer>) -> Self {
        let before = self.0.iter().cloned();
        Self(before.chain([observer]).collect())
    }

    /// The observers of one subscriber.
    pub(crate) fn of_subscriber(&self, subscriber: &str, names: &[&'static str]) -> Self {
        self.each(|observer| observer.of_subscriber(subscriber, names))
    }

    /// The observers of the relay of one outbox.
    #[cfg(feature = "outbox")]
    pub(crate) fn of_outbox(&self, schema: &str) -> Self {
        self.each(|observer| observer.of_outbox(schema))
    }

    fn each(&self, other: impl Fn(&dyn Observer) -> Option<Arc<dyn Observer>>) -> Self {
        let all = self.0.iter();
        Self(
            all.map(|one| other(&**one).unwrap_or_else(|| Arc::clone(one)))
                .collect(),
        )
    }

    /// Passes it to all of them.
    pub(crate) fn tell(&self, observation: &Observation<'_>) {
        for observer in &*self.0 {
            observer.observe(observation);
        }
    }
}
