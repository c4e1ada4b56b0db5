//! The answers that a delivery may get. Never decides which.

use std::{error::Error, time::Duration};

use super::Past;
use crate::{
    handler::memory::{Noted, Whereabouts},
    outcome::{DeadLetter, Outcome},
};

/// Why an answer did not reach the server.
pub(crate) type Unanswered = Box<dyn Error + Send + Sync>;

/// What can be answered to whoever delivered. Every answer is confirmed before its future ends.
pub(crate) trait Acknowledger: Send + Sync + 'static {
    fn ack(&self) -> impl Future<Output = Result<(), Unanswered>> + Send;
    /// Has the event come again, with what became of it so far.
    fn retry(
        &self,
        after: Duration,
        past: &Past,
    ) -> impl Future<Output = Result<(), Unanswered>> + Send;
    /// Whether the event can be stored to come again; else it has to wait in hand.
    fn can_come_again(&self, _past: &Past) -> bool {
        true
    }
    /// Leaves the event to another replica, as if it had not been delivered.
    fn hand_back(&self, after: Duration) -> impl Future<Output = Result<(), Unanswered>> + Send;
    /// Hears what was decided of an attempt, and the failure's text, before it is answered.
    fn decided(&self, _outcome: &Outcome, _error: Option<&str>) {}
    /// Where the letter is of an event that was given up before.
    fn whereabouts(
        &self,
        noted: &Noted,
    ) -> impl Future<Output = Result<Whereabouts, Unanswered>> + Send {
        let known = match noted.letter {
            Some(_) => Whereabouts::Known(None),
            None => Whereabouts::Lost,
        };
        std::future::ready(Ok(known))
    }
    /// Stores the letter, and only then ends the delivery; says under which sequence, 0 when that is not known.
    fn dead_letter(
        &self,
        letter: &DeadLetter,
    ) -> impl Future<Output = Result<u64, Unanswered>> + Send;
}
