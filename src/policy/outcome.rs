//! The outcome of a delivery: decided here from values, carried out elsewhere.

use std::{
    fmt::{self, Display},
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

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
    Defer(Duration),
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

/// The kinds of cause. Their words stand in headers, in the inbox and in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
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
    /// Another word, by a later version of Tidings or by a foreign writer of dead letters.
    Other(String),
}

impl Cause {
    const KNOWN: [Self; 8] = [
        Self::Rejected,
        Self::Exhausted,
        Self::Undecodable,
        Self::Unknown,
        Self::OutsideInbox,
        Self::Crashed,
        Self::ParkedKey,
        Self::Removed,
    ];

    /// The cause with this word, if this version knows it.
    fn named(word: &str) -> Option<Self> {
        Self::KNOWN.into_iter().find(|cause| cause.as_str() == word)
    }

    /// The word for headers, logs and queries.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Rejected => "rejected",
            Self::Exhausted => "exhausted",
            Self::Undecodable => "undecodable",
            Self::Unknown => "unknown",
            Self::OutsideInbox => "outside-inbox",
            Self::Crashed => "crashed",
            Self::ParkedKey => "parked-key",
            Self::Removed => "removed",
            Self::Other(word) => word,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl From<&str> for Cause {
    fn from(word: &str) -> Self {
        Self::named(word).unwrap_or_else(|| Self::Other(word.to_owned()))
    }
}

impl From<String> for Cause {
    fn from(word: String) -> Self {
        Self::named(&word).unwrap_or(Self::Other(word))
    }
}

impl From<Cause> for String {
    fn from(cause: Cause) -> Self {
        cause.as_str().to_owned()
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
            Self::Defer(_) => "defer",
            Self::Reject(_) => "reject",
        }
    }
}

/// The delay of an event that is deferred because something is unavailable.
const DEFERRED: Retry =
    Retry::exponential(Duration::from_millis(250), Duration::from_secs(10)).attempts(u32::MAX);

/// Decides the outcome of attempt number `attempt`, from 1. Before it the event was deferred `deferrals` times.
/// `random` is from 0 to 1.
pub(crate) fn decide(
    result: Result<Handled, Failure>,
    attempt: u32,
    deferrals: u32,
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
            let after = DEFERRED.delay(deferrals.saturating_add(1), random);
            Outcome::Defer(after.unwrap_or_default())
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
    fn a_cause_is_its_word_also_when_this_version_does_not_know_it() {
        for word in ["exhausted", "parked-key", "panicked", ""] {
            let cause = Cause::from(word);
            assert_eq!((cause.as_str(), cause.to_string()), (word, word.to_owned()));
            let json = serde_json::to_string(&cause).unwrap();
            assert_eq!(json, format!("{word:?}"));
            assert_eq!(serde_json::from_str::<Cause>(&json).unwrap(), cause);
        }
        assert_eq!(Cause::from("exhausted"), Cause::Exhausted);
    }

    #[test]
    fn success_is_acked_at_any_attempt() {
        let decided = |handled| decide(Ok(handled), 99, 0, &RETRY, 0.0);
        assert_eq!(decided(Handled::Done), Outcome::Ack);
        assert_eq!(decided(Handled::Already), Outcome::Duplicate);
    }

    #[test]
    fn an_outage_costs_no_attempt_and_its_delays_grow() {
        let decided = |deferrals| {
            let failure = Failure::unavailable("no database");
            decide(Err(failure), 3, deferrals, &RETRY, 1.0)
        };
        assert_eq!(decided(0), Outcome::Defer(Duration::from_millis(250)));
        assert_eq!(decided(1), Outcome::Defer(Duration::from_millis(500)));
        assert_eq!(decided(u32::MAX), Outcome::Defer(Duration::ZERO));
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
    fn a_requested_delay_is_obeyed_and_counts_as_an_attempt() {
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
