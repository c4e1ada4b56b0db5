//! Where an event is until its next attempt: in hand, or away. Never decides when that is due.

use std::time::Duration;

use super::{Acknowledger, Arrival, Executor};
use crate::{breaker::Permit, outcome::Outcome};

/// Shorter waits than the server's schedules can make are waited for in hand.
const IN_PLACE: Duration = Duration::from_millis(250);
/// An event that was put off keeps its place for no longer than this.
const LONGEST_IN_HAND: Duration = Duration::from_secs(30);
/// For so long the event of a probe that failed leaves its place to another one.
const AFTER_PROBE: Duration = Duration::from_secs(1);

impl<S: Send + Sync + 'static> Executor<S> {
    /// For how long the event stays in hand; `None` when the outcome is to be answered.
    pub(super) fn stays_for(
        &self,
        outcome: &mut Outcome,
        arrival: &Arrival,
        acknowledger: &impl Acknowledger,
        permit: Permit,
    ) -> Option<Duration> {
        let must_stay = || self.subscriber.ordered || !acknowledger.can_come_again(&arrival.past);
        match outcome {
            // With only those in hand for probes, events that always fail would keep the circuit open.
            Outcome::Postpone(after) if permit.is_probe() && !must_stay() => {
                *after = (*after).max(AFTER_PROBE);
                None
            }
            // What the handlers need is not there: it is no use to take in more meanwhile.
            Outcome::Postpone(after) if *after <= LONGEST_IN_HAND || must_stay() => Some(*after),
            Outcome::Retry(after) if *after <= IN_PLACE || must_stay() => Some(*after),
            _ => None,
        }
    }
}
