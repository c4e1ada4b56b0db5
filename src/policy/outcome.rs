//! The outcome of a delivery: decided here from values, carried out elsewhere.

use std::{fmt::Display, time::Duration};

use chrono::{DateTime, Utc};

use super::{
    failure::{Failure, Verdict, told},
    retry::Retry,
};

/// How a call succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Handled {
    Done,
    /// The inbox holds the event: the handler was not called.
    #[cfg_attr(not(feature = "outbox"), allow(dead_code))]
    // constructed by the inbox only
    Already,
    /// It was dead-lettered before, according to the inbox, for this reason: the handler was not called.
    #[cfg_attr(not(feature = "outbox"), allow(dead_code))]
    // constructed by the inbox only
    DeadLettered(Box<DeadLetter>),
}

/// The outcome of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It is acknowledged: the event is not redelivered.
    Ack,
    /// It was handled before, according to the inbox: it is acknowledged, and the handler was not called.
    Duplicate,
    /// It is retried after this time.
    Retry(Duration),
    /// It is deferred by this time, without counting an attempt: a dependency of the handler is unavailable.
    Postpone(Duration),
    /// It is dead-lettered.
    Reject(DeadLetter),
}

/// Why an event is dead-lettered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The kind of cause.
    pub cause: Cause,
    /// The error's text, including its sources: one line of at most 2 KiB.
    pub error: String,
    /// The number of attempts.
    pub attempts: u32,
    /// When the first of them failed; `None` without an attempt, or when it is not known.
    pub first_failed_at: Option<DateTime<Utc>>,
    /// The type of the handler that failed; `None` when no handler was called.
    pub handler: Option<&'static str>,
}

impl DeadLetter {
    /// A dead letter of an event after this many attempts. The error text is rendered here, once for all uses.
    pub(crate) fn new(cause: Cause, error: &dyn Display, attempts: u32) -> Self {
        Self {
            cause,
            error: told(error),
            attempts,
            first_failed_at: None,
            handler: None,
        }
    }
}

/// The kinds of cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The handler rejected the event: no later attempt can succeed.
    Rejected,
    /// The last attempt failed.
    Exhausted,
    /// The payload does not decode as the event.
    Undecodable,
    /// No handler takes the name, or the version.
    Unknown,
    /// The event's time is outside the range of the inbox, which cannot tell whether it was handled.
    OutsideInbox,
    /// The process died again and again while only this event was being handled.
    Crashed,
    /// An earlier event of its key was dead-lettered, and the subscriber parks such keys.
    ParkedKey,
    /// Its subscriber was [removed](crate::subscribers::Subscribers::remove) while the event waited for another attempt.
    Removed,
}

impl Cause {
    #[cfg(feature = "outbox")]
    const ALL: [Self; 8] = [
        Self::Rejected,
        Self::Exhausted,
        Self::Undecodable,
        Self::Unknown,
        Self::OutsideInbox,
        Self::Crashed,
        Self::ParkedKey,
        Self::Removed,
    ];

    /// The cause with this word.
    #[cfg(feature = "outbox")]
    pub(crate) fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == word)
    }

    /// The word for headers, logs and queries.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Exhausted => "exhausted",
            Self::Undecodable => "undecodable",
            Self::Unknown => "unknown",
            Self::OutsideInbox => "outside-inbox",
            Self::Crashed => "crashed",
            Self::ParkedKey => "parked-key",
            Self::Removed => "removed",
        }
    }
}

impl Outcome {
    /// The word for logs.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Duplicate => "duplicate",
            Self::Retry(_) => "retry",
            Self::Postpone(_) => "postpone",
            Self::Reject(_) => "reject",
        }
    }
}

/// The delay of an event that is deferred because something is unavailable.
const POSTPONED: Retry =
    Retry::exponential(Duration::from_millis(250), Duration::from_secs(10)).attempts(u32::MAX);

/// Decides the outcome of attempt number `attempt`, from 1. Before it the event was deferred `postponed` times.
/// `random` is from 0 to 1.
pub(crate) fn decide(
    result: Result<Handled, Failure>,
    attempt: u32,
    postponed: u32,
    retry: &Retry,
    random: f64,
) -> Outcome {
    let failure = match result {
        Ok(Handled::Done) => return Outcome::Ack,
        Ok(Handled::Already) => return Outcome::Duplicate,
        Ok(Handled::DeadLettered(letter)) => return Outcome::Reject(*letter),
        Err(failure) => failure,
    };
    let dead = |cause| Outcome::Reject(DeadLetter::new(cause, &failure, attempt));
    match (failure.verdict, retry.delay(attempt, random)) {
        (Verdict::Unavailable | Verdict::Undecided, _) => {
            let after = POSTPONED.delay(postponed.saturating_add(1), random);
            Outcome::Postpone(after.unwrap_or_default())
        }
        (Verdict::Undecodable, _) => dead(Cause::Undecodable),
        (Verdict::OutsideInbox, _) => dead(Cause::OutsideInbox),
        (Verdict::Reject, _) => dead(Cause::Rejected),
        (Verdict::Retry | Verdict::RetryAfter(_), None) => dead(Cause::Exhausted),
        (Verdict::RetryAfter(after), Some(_)) => Outcome::Retry(after),
        (Verdict::Retry, Some(delay)) => Outcome::Retry(delay),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: Retry =
        Retry::exponential(Duration::from_secs(1), Duration::from_secs(60)).attempts(3);

    fn decided(failure: Failure, attempt: u32) -> Outcome {
        decide(Err(failure), attempt, 0, &RETRY, 1.0)
    }

    #[test]
    fn success_is_acknowledged_whatever_the_attempt() {
        let decided = |handled| decide(Ok(handled), 99, 0, &RETRY, 0.0);
        assert_eq!(decided(Handled::Done), Outcome::Ack);
        assert_eq!(decided(Handled::Already), Outcome::Duplicate);
    }

    #[test]
    fn what_is_not_there_costs_no_attempt_and_is_waited_for_longer_each_time() {
        let decided = |postponed| {
            let failure = Failure::unavailable("no database");
            decide(Err(failure), 3, postponed, &RETRY, 1.0)
        };
        assert_eq!(decided(0), Outcome::Postpone(Duration::from_millis(250)));
        assert_eq!(decided(1), Outcome::Postpone(Duration::from_millis(500)));
        assert_eq!(decided(u32::MAX), Outcome::Postpone(Duration::ZERO));
    }

    #[test]
    fn a_failure_is_retried_until_the_attempts_are_used_up() {
        assert_eq!(
            decided(Failure::retry("x"), 1),
            Outcome::Retry(Duration::from_secs(1))
        );
        assert_eq!(
            decided(Failure::retry("x"), 2),
            Outcome::Retry(Duration::from_secs(2))
        );
        let Outcome::Reject(letter) = decided(Failure::retry("x"), 3) else {
            panic!("rejected")
        };
        assert_eq!(
            (letter.cause, letter.attempts, &*letter.error),
            (Cause::Exhausted, 3, "x")
        );
    }

    #[test]
    fn a_wait_that_was_asked_for_is_kept_and_still_counts() {
        let wait = Duration::from_secs(9);
        assert_eq!(
            decided(Failure::retry_after(wait, "x"), 1),
            Outcome::Retry(wait)
        );
        assert!(matches!(
            decided(Failure::retry_after(wait, "x"), 3),
            Outcome::Reject(_)
        ));
    }

    #[test]
    fn a_rejected_event_is_not_retried() {
        let Outcome::Reject(letter) = decided(Failure::reject("declined"), 1) else {
            panic!("rejected")
        };
        assert_eq!(letter.cause, Cause::Rejected);
    }
}
