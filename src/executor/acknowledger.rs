//! The answers to a delivery. Never decides which one is given.

use std::{error::Error, time::Duration};

use super::Past;
use crate::{
    handler::memory::{Noted, Whereabouts},
    policy::outcome::DeadLetter,
};

/// Why an answer did not reach the server.
pub(crate) type AckError = Box<dyn Error + Send + Sync>;

/// Answers one delivery. Every answer is confirmed before its future ends.
pub(crate) trait Acknowledger: Send + Sync + 'static {
    fn ack(&self) -> impl Future<Output = Result<(), AckError>> + Send;
    /// Schedules a retry of the event, with its history.
    fn retry(
        &self,
        after: Duration,
        past: &Past,
    ) -> impl Future<Output = Result<(), AckError>> + Send;
    /// Whether a retry of the event can be stored; otherwise the event has to wait in flight.
    fn can_come_again(&self, _past: &Past) -> bool {
        true
    }
    /// Hands the event back for another instance, as if it had not been delivered.
    fn hand_back(&self, after: Duration) -> impl Future<Output = Result<(), AckError>> + Send;
    /// Looks up the dead letter of an event that was dead-lettered before.
    fn whereabouts(
        &self,
        noted: &Noted,
    ) -> impl Future<Output = Result<Whereabouts, AckError>> + Send {
        let known = match noted.letter {
            Some(_) => Whereabouts::Known(None),
            None => Whereabouts::Lost,
        };
        std::future::ready(Ok(known))
    }
    /// Stores the dead letter, and only then ends the delivery. Returns its sequence; 0 when the sequence is not known.
    fn dead_letter(
        &self,
        letter: &DeadLetter,
    ) -> impl Future<Output = Result<u64, AckError>> + Send;
}
