//! An event that is given up without an attempt. Never decides that it is.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Acknowledger, Arrival, Executor, Step};
use crate::{
    breaker::{Attempted, Permit},
    outcome::{DeadLetter, Outcome},
};

impl<S: Send + Sync + 'static> Executor<S> {
    /// Whether this replica knows the name of the event.
    pub(crate) fn takes(&self, arrival: &Arrival) -> bool {
        self.subscriber.takes(&arrival.subject)
    }

    /// How long an attempt may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.subscriber.timeout
    }

    /// Makes a dead letter of an event; the handler is named if it was called before.
    pub(crate) async fn bury(
        &self,
        arrival: &Arrival,
        mut letter: DeadLetter,
        acknowledger: &impl Acknowledger,
        halt: &CancellationToken,
        permit: Permit,
    ) -> Step {
        self.pass(arrival, permit);
        if letter.attempts > 0 {
            let envelope = arrival.envelope.as_ref().ok();
            let route = envelope.and_then(|envelope| self.subscriber.route(envelope));
            letter.handler = route.map(|route| route.handler.name());
        }
        let attempts = letter.attempts;
        let outcome = Outcome::Reject(letter);
        self.record(arrival, attempts, &outcome, None, Duration::ZERO);
        self.answer(arrival, &outcome, acknowledger, halt).await
    }

    /// What was to be an attempt is none.
    pub(crate) fn pass(&self, arrival: &Arrival, permit: Permit) {
        self.flow.end(permit, &arrival.subject, Attempted::Void);
    }
}
