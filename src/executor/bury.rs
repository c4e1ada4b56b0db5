//! Dead-letters an event: first records it in the inbox, if the handler has one, then stores the dead letter. Never
//! decides that an event is dead-lettered.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Acknowledger, Arrival, Executor, Step};
use crate::policy::outcome;
use crate::{
    handler::{
        context::Cancelled,
        memory::{DeadLettered, Remembers, Whereabouts},
    },
    policy::{
        breaker::{Attempted, Permit},
        failure::{Failure, told},
        outcome::{DeadLetter, Outcome},
    },
};

impl<S: Send + Sync + 'static> Executor<S> {
    /// Whether this instance has a handler for the name of the event.
    pub(crate) fn takes(&self, arrival: &Arrival) -> bool {
        let replay = arrival.replay.as_deref();
        self.subscriber.takes(&arrival.subject, replay)
    }

    /// How long an attempt may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.subscriber.timeout
    }

    /// Dead-letters an event. The dead letter names the handler if the handler was called before.
    pub(crate) async fn bury(
        &self,
        arrival: &mut Arrival,
        mut letter: DeadLetter,
        acknowledger: &impl Acknowledger,
        halt: &CancellationToken,
        permit: Permit,
    ) -> Step {
        self.pass(arrival, permit);
        if letter.attempts > 0 {
            let envelope = arrival.envelope.as_ref().ok();
            let replay = arrival.replay.as_deref();
            let route = envelope.and_then(|envelope| self.subscriber.route(envelope, replay));
            letter.handler = route.map(|route| route.handler.name());
        }
        let attempts = letter.attempts;
        // The history is written as if an attempt had failed, and is restored afterwards: this is not an attempt.
        let failures = arrival.past.failures;
        arrival.past.failures = failures.saturating_add(1);
        let decided = (Outcome::Reject(letter), None);
        let remembering = self.remember(arrival, decided, acknowledger);
        let remembered = halt.run_until_cancelled(remembering).await;
        arrival.past.failures = failures;
        let Some((mut outcome, error)) = remembered else {
            return self.hand_back(arrival, acknowledger, halt).await;
        };
        self.record(arrival, attempts, &outcome, error, Duration::ZERO);
        match self.stays_for(&mut outcome, arrival, acknowledger, permit) {
            Some(wait) => Step::Again(wait),
            None => {
                self.end(arrival, &outcome, Duration::ZERO, acknowledger, halt)
                    .await
            }
        }
    }

    /// Ends the permit of an attempt that does not take place.
    pub(crate) fn pass(&self, arrival: &Arrival, permit: Permit) {
        self.flow.end(permit, &arrival.subject, Attempted::Void);
    }

    /// Records in the inbox that an event is dead-lettered, before its dead letter is stored: the server may lose the
    /// ack, and a handler that is called again may succeed. If the inbox is unavailable, the event is retried. If the
    /// inbox holds that the event has ended, that is its outcome.
    pub(super) async fn remember(
        &self,
        arrival: &mut Arrival,
        (outcome, error): (Outcome, Option<String>),
        acknowledger: &impl Acknowledger,
    ) -> (Outcome, Option<String>) {
        let Outcome::Reject(letter) = &outcome else {
            return (outcome, error);
        };
        match self.dead_lettered(arrival, letter, acknowledger).await {
            Ok(Some(letter)) => (Outcome::Reject(letter), error),
            Ok(None) => (Outcome::Duplicate, None),
            Err(failure) => {
                // It is redelivered with its history unchanged.
                let attempt = arrival.past.failures;
                arrival.past.failures = attempt.saturating_sub(1);
                let deferrals = arrival.past.deferrals;
                arrival.past.deferrals = deferrals.saturating_add(1);
                let error = told(&format_args!(
                    "the inbox cannot record that the event is dead-lettered: {failure}"
                ));
                let retry = &self.subscriber.retry;
                let outcome =
                    outcome::decide(Err(failure), attempt, deferrals, retry, (self.random)());
                (outcome, Some(error))
            }
        }
    }

    /// The dead letter to store, if any.
    async fn dead_lettered(
        &self,
        arrival: &Arrival,
        letter: &DeadLetter,
        acknowledger: &impl Acknowledger,
    ) -> Result<Option<DeadLetter>, Failure> {
        let Some((memory, facts)) = self.memory(arrival) else {
            return Ok(Some(letter.clone()));
        };
        let noted = match memory.give_up(&facts, letter, None).await? {
            DeadLettered::Now => return Ok(Some(letter.clone())),
            DeadLettered::Ended => return Ok(None),
            DeadLettered::Before(noted) => noted,
        };
        let looking = acknowledger.whereabouts(&noted).await;
        match looking.map_err(Failure::unavailable)? {
            Whereabouts::Known(None) => Ok(None),
            Whereabouts::Known(Some(letter)) => {
                self.note_buried(arrival, letter).await;
                Ok(None)
            }
            Whereabouts::Lost => {
                // The original error is kept, as recorded at the time.
                let mut why = noted.why.clone();
                why.handler = letter.handler;
                if noted.letter.is_none() && noted.is_this {
                    return Ok(Some(why));
                }
                let (subscriber, sequence) = (&*self.name, arrival.sequence);
                tracing::warn!(
                    subscriber,
                    stream = &*arrival.stream,
                    sequence,
                    given_up_at = %noted.at,
                    "dead letter lost: no stream has the dead letter of this event; it is stored again"
                );
                // When two deliveries do this at the same time, one of them stores it.
                let again = memory.give_up(&facts, &why, Some(&noted)).await?;
                Ok((again == DeadLettered::Now).then_some(why))
            }
        }
    }

    /// Answers. A dead letter is counted, logged and recorded in the inbox only after the server has confirmed that it
    /// is stored.
    pub(super) async fn end(
        &self,
        arrival: &Arrival,
        outcome: &Outcome,
        elapsed: Duration,
        acknowledger: &impl Acknowledger,
        halt: &CancellationToken,
    ) -> Step {
        let answering = self.answer_with_letter(arrival, outcome, acknowledger, halt);
        let (step, stored) = answering.await;
        if let Outcome::Reject(letter) = outcome {
            let is_stored = step == Step::Over;
            self.record_letter(arrival, letter, is_stored, elapsed);
            if is_stored {
                self.note_buried(arrival, stored).await;
            }
        }
        step
    }

    /// Records the sequence of the dead letter in the inbox. Without it, another delivery has to search for the dead
    /// letter.
    async fn note_buried(&self, arrival: &Arrival, letter: u64) {
        let Some((memory, facts)) = self.memory(arrival) else {
            return;
        };
        if let Err(error) = memory.buried(&facts, letter).await {
            let (subscriber, sequence) = (&*self.name, arrival.sequence);
            tracing::debug!(subscriber, sequence, %error, "dead letter not recorded in inbox");
        }
    }

    /// The inbox of the event's handler, if it has one.
    fn memory(
        &self,
        arrival: &Arrival,
    ) -> Option<(&dyn Remembers, crate::handler::context::Facts)> {
        let envelope = arrival.envelope.as_ref().ok()?;
        let route = self.subscriber.route(envelope, arrival.replay.as_deref())?;
        let memory = route.handler.memory()?;
        let attempt = arrival.past.failures;
        let facts = self.facts(
            arrival,
            envelope,
            attempt,
            Cancelled::by(&CancellationToken::new()),
        );
        Some((memory, facts))
    }
}
