//! What became of a delivery to a [`TestWorker`](super::TestWorker). Never how.

use std::time::Duration;

use tidings_contract::EventId;

use crate::outcome::{DeadLetter, Outcome};

/// What became of a delivery, or of a later attempt at it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivered {
    /// The event's id.
    pub event_id: EventId,
    /// The event's name, such as `user.created`.
    pub name: String,
    /// The event's key.
    pub key: Option<String>,
    /// Which attempt it was, from 1. Attempts are failures of the handler: one that was postponed, handed back
    /// or lost with its process is not counted.
    pub attempt: u32,
    /// What was decided; `None` when nothing was: the event was [handed back](Delivered::was_handed_back), or it
    /// waits behind an earlier one of its key ([`TestWorker::waiting`](super::TestWorker::waiting)).
    pub outcome: Option<Outcome>,
    /// The failure's text, with its sources.
    pub error: Option<String>,
    /// When it was, on the worker's clock.
    pub at: Duration,
    pub(super) was_handed_back: bool,
}

impl Delivered {
    /// It never comes again: it was handled, now or before.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.outcome, Some(Outcome::Ack | Outcome::Duplicate))
    }

    /// When it comes again because its attempt failed: exactly [`Retry::longest`](crate::Retry::longest), since a
    /// test's worker has no jitter, or what [`Failure::retry_after`](crate::Failure::retry_after) said.
    #[must_use]
    pub fn retried_after(&self) -> Option<Duration> {
        match self.outcome {
            Some(Outcome::Retry(after)) => Some(after),
            _ => None,
        }
    }

    /// Why it is among the dead letters.
    #[must_use]
    pub fn dead_letter(&self) -> Option<&DeadLetter> {
        match &self.outcome {
            Some(Outcome::Reject(letter)) => Some(letter),
            _ => None,
        }
    }

    /// It was left to another replica: the worker stopped, or has no handler of this name.
    #[must_use]
    pub fn was_handed_back(&self) -> bool {
        self.was_handed_back
    }
}
