//! An event that is given up: remembered first, where its handler remembers events, then a dead letter. Never
//! decides that it is.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Acknowledger, Arrival, Executor, Step};
use crate::{
    breaker::{Attempted, Permit},
    context::Cancelled,
    failure::{Failure, told},
    handler::memory::{GivenUp, Remembers, Whereabouts},
    outcome::{self, DeadLetter, Outcome},
};

impl<S: Send + Sync + 'static> Executor<S> {
    /// Whether this replica knows the name of the event.
    pub(crate) fn takes(&self, arrival: &Arrival) -> bool {
        let replay = arrival.replay.as_deref();
        self.subscriber.takes(&arrival.subject, replay)
    }

    /// How long an attempt may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.subscriber.timeout
    }

    /// Makes a dead letter of an event; the handler is named if it was called before.
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
        // What is counted is an attempt that failed: this is none.
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

    /// What was to be an attempt is none.
    pub(crate) fn pass(&self, arrival: &Arrival, permit: Permit) {
        self.flow.end(permit, &arrival.subject, Attempted::Void);
    }

    /// Has the handler's memory know that an event is given up, before its letter is stored: the server may forget
    /// that it was ended, and a handler that is called again may succeed. Where the memory is not there, or it knows
    /// that the event has ended, that is what becomes of the event.
    pub(super) async fn remember(
        &self,
        arrival: &mut Arrival,
        (outcome, error): (Outcome, Option<String>),
        acknowledger: &impl Acknowledger,
    ) -> (Outcome, Option<String>) {
        let Outcome::Reject(letter) = &outcome else {
            return (outcome, error);
        };
        match self.given_up(arrival, letter, acknowledger).await {
            Ok(Some(letter)) => (Outcome::Reject(letter), error),
            Ok(None) => (Outcome::Duplicate, None),
            Err(failure) => {
                // It comes again as it was.
                let attempt = arrival.past.failures;
                arrival.past.failures = attempt.saturating_sub(1);
                let put_off = arrival.past.put_off;
                arrival.past.put_off = put_off.saturating_add(1);
                let error = told(&format_args!(
                    "its memory cannot be told that the event is given up: {failure}"
                ));
                let retry = &self.subscriber.retry;
                let outcome =
                    outcome::decide(Err(failure), attempt, put_off, retry, (self.random)());
                (outcome, Some(error))
            }
        }
    }

    /// The letter that is to be stored, if one is.
    async fn given_up(
        &self,
        arrival: &Arrival,
        letter: &DeadLetter,
        acknowledger: &impl Acknowledger,
    ) -> Result<Option<DeadLetter>, Failure> {
        let Some((memory, facts)) = self.memory(arrival) else {
            return Ok(Some(letter.clone()));
        };
        let noted = match memory.give_up(&facts, letter, None).await? {
            GivenUp::Now => return Ok(Some(letter.clone())),
            GivenUp::Ended => return Ok(None),
            GivenUp::Before(noted) => noted,
        };
        let looking = acknowledger.whereabouts(&noted).await;
        match looking.map_err(Failure::unavailable)? {
            Whereabouts::Known(None) => Ok(None),
            Whereabouts::Known(Some(letter)) => {
                self.note_buried(arrival, letter).await;
                Ok(None)
            }
            Whereabouts::Lost => {
                // Why it was given up is what was noted then.
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
                // Another delivery that does the same is the one that stores it.
                let again = memory.give_up(&facts, &why, Some(&noted)).await?;
                Ok((again == GivenUp::Now).then_some(why))
            }
        }
    }

    /// Answers. A letter is counted and logged, and its memory knows it, when the server has confirmed that it is
    /// stored, and not before.
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

    /// Without it another delivery has to look for the letter.
    async fn note_buried(&self, arrival: &Arrival, letter: u64) {
        let Some((memory, facts)) = self.memory(arrival) else {
            return;
        };
        if let Err(error) = memory.buried(&facts, letter).await {
            let (subscriber, sequence) = (&*self.name, arrival.sequence);
            tracing::debug!(subscriber, sequence, %error, "dead letter not recorded in inbox");
        }
    }

    /// What remembers the event, if something does.
    fn memory(&self, arrival: &Arrival) -> Option<(&dyn Remembers, crate::context::Facts)> {
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
