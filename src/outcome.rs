//! What is done about a delivery: decided here from values, carried out elsewhere.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::{
    failure::{Failure, Verdict},
    retry::Retry,
};

/// What becomes of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Done: it never comes again.
    Ack,
    /// It comes again after this time.
    Retry(Duration),
    /// It goes to the dead letters.
    Reject(DeadLetter),
}

/// Why an event is among the dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The kind of cause.
    pub cause: Cause,
    /// The error's text, with its sources.
    pub error: String,
    /// How many attempts there were.
    pub attempts: u32,
    /// When the first of them failed; `None` when none was made, or it is not known.
    pub first_failed_at: Option<DateTime<Utc>>,
    /// The type of the handler that failed; `None` when none was called.
    pub handler: Option<&'static str>,
}

/// The kinds of cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The handler said that no later try can succeed.
    Rejected,
    /// The last attempt failed.
    Exhausted,
    /// The payload does not decode as the event.
    Undecodable,
    /// No handler knows the name, or the version.
    Unknown,
}

impl Cause {
    /// The word for headers, logs and queries.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Exhausted => "exhausted",
            Self::Undecodable => "undecodable",
            Self::Unknown => "unknown",
        }
    }
}

impl Outcome {
    /// The word for logs.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Retry(_) => "retry",
            Self::Reject(_) => "reject",
        }
    }
}

/// Decides what becomes of attempt number `attempt`, from 1. `random` is from 0 to 1.
pub(crate) fn decide(
    result: Result<(), Failure>,
    attempt: u32,
    retry: &Retry,
    random: f64,
) -> Outcome {
    let failure = match result {
        Ok(()) => return Outcome::Ack,
        Err(failure) => failure,
    };
    let dead = |cause| {
        Outcome::Reject(DeadLetter {
            cause,
            error: failure.to_string(),
            attempts: attempt,
            first_failed_at: None,
            handler: None,
        })
    };
    match (failure.verdict, retry.delay(attempt, random)) {
        (Verdict::Reject, _) => dead(Cause::Rejected),
        (_, None) => dead(Cause::Exhausted),
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
        decide(Err(failure), attempt, &RETRY, 1.0)
    }

    #[test]
    fn success_is_acknowledged_whatever_the_attempt() {
        assert_eq!(decide(Ok(()), 99, &RETRY, 0.0), Outcome::Ack);
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
