//! What became of a subscriber's events in this process, counted since its start. Never decides anything.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use chrono::{DateTime, Utc};

use crate::outcome::Outcome;

/// Written by whoever runs events, read by whoever tells of them.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    handled: AtomicU64,
    failed: AtomicU64,
    dead_lettered: AtomicU64,
    /// When the last delivery came, in milliseconds since 1970; 0 for none.
    delivered_at: AtomicI64,
    unconfirmed: Mutex<Option<String>>,
    /// Answers that were not confirmed since one was.
    unconfirmed_answers: AtomicU64,
}

/// The numbers of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) handled: u64,
    pub(crate) failed: u64,
    pub(crate) dead_lettered: u64,
}

impl Tally {
    /// A delivery has come.
    pub(crate) fn delivered(&self) {
        let now: DateTime<Utc> = SystemTime::now().into();
        self.delivered_at.store(now.timestamp_millis(), Relaxed);
    }

    /// An attempt has ended. What is given up counts [when its letter is stored](Tally::given_up).
    pub(crate) fn ended(&self, outcome: &Outcome) {
        let counter = match outcome {
            Outcome::Ack | Outcome::Duplicate => &self.handled,
            Outcome::Retry(_) | Outcome::Postpone(_) => &self.failed,
            Outcome::Reject(_) => return,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// An event was to be given up: its letter is stored, confirmed, or it comes again.
    pub(crate) fn given_up(&self, is_stored: bool) {
        let counter = match is_stored {
            true => &self.dead_lettered,
            false => &self.failed,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// The server has not confirmed an answer.
    pub(crate) fn unconfirmed(&self, why: &str) {
        *self.reason() = Some(why.to_owned());
        self.unconfirmed_answers.fetch_add(1, Relaxed);
    }

    /// The server has confirmed an answer.
    pub(crate) fn confirmed(&self) {
        if self.unconfirmed_answers.load(Relaxed) > 0 {
            self.unconfirmed_answers.store(0, Relaxed);
            *self.reason() = None;
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            handled: self.handled.load(Relaxed),
            failed: self.failed.load(Relaxed),
            dead_lettered: self.dead_lettered.load(Relaxed),
        }
    }

    pub(crate) fn last_delivery_at(&self) -> Option<DateTime<Utc>> {
        match self.delivered_at.load(Relaxed) {
            0 => None,
            millis => DateTime::from_timestamp_millis(millis),
        }
    }

    /// Why the last answer was not confirmed, if none was since.
    pub(crate) fn why_unconfirmed(&self) -> Option<String> {
        self.reason().clone()
    }

    fn reason(&self) -> MutexGuard<'_, Option<String>> {
        self.unconfirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::outcome::{Cause, DeadLetter};

    #[test]
    fn each_end_of_an_attempt_counts_once() {
        let tally = Tally::default();
        let letter = DeadLetter {
            cause: Cause::Rejected,
            error: String::new(),
            attempts: 1,
            first_failed_at: None,
            handler: None,
        };
        let ends = [
            Outcome::Ack,
            Outcome::Duplicate,
            Outcome::Ack,
            Outcome::Retry(Duration::ZERO),
            Outcome::Postpone(Duration::ZERO),
            Outcome::Reject(letter),
        ];
        for outcome in &ends {
            tally.ended(outcome);
        }
        assert_eq!(tally.counts().dead_lettered, 0, "no letter is confirmed");
        tally.given_up(false);
        tally.given_up(true);
        let (handled, failed, dead_lettered) = (3, 3, 1);
        let expected = Counts {
            handled,
            failed,
            dead_lettered,
        };
        assert_eq!(tally.counts(), expected);
    }

    #[test]
    fn what_was_not_confirmed_is_over_with_the_next_that_is() {
        let tally = Tally::default();
        tally.unconfirmed("denied");
        assert_eq!(tally.why_unconfirmed().as_deref(), Some("denied"));
        tally.confirmed();
        assert_eq!(tally.why_unconfirmed(), None);
    }
}
