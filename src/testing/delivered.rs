//! The result of a delivery to a [`TestWorker`](super::TestWorker). Never how it came about.

use std::time::Duration;

use tidings_contract::EventId;

use crate::policy::outcome::{DeadLetter, Outcome};

/// The result of a delivery, or of a later attempt at it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivered {
    /// The event's id.
    pub event_id: EventId,
    /// The event's name, such as `user.created`.
    pub name: String,
    /// The event's key.
    pub key: Option<String>,
    /// The number of the attempt, from 1. Only failures of the handler count: an attempt that was deferred, handed back
    /// or lost with its process does not.
    pub attempt: u32,
    /// The outcome; `None` when there is none: the event was [handed back](Delivered::was_handed_back), or it waits
    /// behind an earlier one of its key ([`TestWorker::waiting`](super::TestWorker::waiting)).
    pub outcome: Option<Outcome>,
    /// The failure's text, with its sources.
    pub error: Option<String>,
    /// When the attempt was made, on the worker's clock.
    pub at: Duration,
    pub(super) was_handed_back: bool,
}

impl Delivered {
    /// Whether the event is never redelivered: it was handled, now or before.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match self.outcome {
            Some(Outcome::Ack | Outcome::Duplicate) => true,
            Some(Outcome::Retry(_) | Outcome::Defer(_) | Outcome::Reject(_)) | None => false,
        }
    }

    /// How long until the event is redelivered because its attempt failed. This is exactly
    /// [`Retry::longest`](crate::Retry::longest), since a test worker has no jitter, or the delay of
    /// [`Failure::retry_after`](crate::Failure::retry_after).
    #[must_use]
    pub fn retried_after(&self) -> Option<Duration> {
        match self.outcome {
            Some(Outcome::Retry(after)) => Some(after),
            Some(Outcome::Ack | Outcome::Duplicate | Outcome::Defer(_) | Outcome::Reject(_))
            | None => None,
        }
    }

    /// The dead letter, when the event was dead-lettered.
    #[must_use]
    pub fn dead_letter(&self) -> Option<&DeadLetter> {
        match &self.outcome {
            Some(Outcome::Reject(letter)) => Some(letter),
            Some(Outcome::Ack | Outcome::Duplicate | Outcome::Retry(_) | Outcome::Defer(_))
            | None => None,
        }
    }

    /// Whether the event was left to another instance: the worker stopped, or has no handler of this name.
    #[must_use]
    pub fn was_handed_back(&self) -> bool {
        self.was_handed_back
    }
}
