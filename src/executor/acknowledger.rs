//! The answers that a delivery may get. Never decides which.

use std::{error::Error, time::Duration};

use chrono::{DateTime, Utc};

use super::Past;
use crate::outcome::{DeadLetter, Outcome};

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
    /// Whether a letter of this delivery was stored since then.
    fn is_buried(
        &self,
        _letter: &DeadLetter,
        _since: DateTime<Utc>,
    ) -> impl Future<Output = Result<bool, Unanswered>> + Send {
        std::future::ready(Ok(false))
    }
    /// Stores the letter, and only then ends the delivery.
    fn dead_letter(
        &self,
        letter: &DeadLetter,
    ) -> impl Future<Output = Result<(), Unanswered>> + Send;
}
