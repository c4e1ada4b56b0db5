//! Dead-letters an event: first records it in the inbox, if the handler has one, then stores the dead letter. Never
//! decides that an event is dead-lettered.

use std::time::Duration;

use tidings_contract::wire::ReadError;
use tokio_util::sync::CancellationToken;

use super::{Acknowledger, Attempt, Decided, Delivery, Disposition, Executor};
use crate::{
    handler::{
        context::{Cancelled, Facts},
        memory::{DeadLettered, Remembers, Whereabouts},
    },
    observer::DeliveryEnd,
    policy::{
        failure::{Failure, told},
        outcome::{self, Cause, DeadLetter, Outcome},
    },
};

impl<S: Send + Sync + 'static> Executor<S> {
    /// Dead-letters an event without an attempt. The dead letter names the handler if the handler was called before.
    pub(crate) async fn dead_letter<A: Acknowledger>(
        &self,
        mut attempt: Attempt<'_, A>,
        mut letter: DeadLetter,
    ) -> Disposition {
        self.pass(&attempt);
        let attempts = letter.attempts;
        if attempts > 0 {
            letter.handler = self.handler_of(attempt.delivery);
        }
        let halt = attempt.halt;
        let remembering = self.remember(&mut attempt, letter, None);
        match halt.run_until_cancelled(remembering).await {
            Some(decided) => {
                self.carry_out(attempt, attempts, decided, Duration::ZERO)
                    .await
            }
            None => self.hand_back(&attempt).await,
        }
    }

    /// Records in the inbox that an event is dead-lettered, before its dead letter is stored: the server may lose the
    /// ack, and a handler that is called again may succeed. If the inbox is unavailable, the event is redelivered, and
    /// no failure is counted. If the inbox holds that the event has ended, that is its outcome.
    pub(super) async fn remember<A: Acknowledger>(
        &self,
        attempt: &mut Attempt<'_, A>,
        letter: DeadLetter,
        error: Option<String>,
    ) -> Decided {
        let failure = match self.dead_lettered(attempt, &letter).await {
            Ok(Some(letter)) => {
                return Decided {
                    outcome: Outcome::Reject(letter),
                    error,
                    fault: None,
                };
            }
            Ok(None) => {
                return Decided {
                    outcome: Outcome::Duplicate,
                    error: None,
                    fault: None,
                };
            }
            Err(failure) => failure,
        };
        let error = told(&format_args!(
            "the inbox cannot record that the event is dead-lettered: {failure}"
        ));
        let number = attempt.delivery.next_attempt();
        let (past, retry) = (&mut attempt.delivery.past, &self.subscriber.retry);
        let deferrals = past.deferrals;
        past.note_deferral();
        Decided {
            outcome: outcome::decide(Err(failure), number, deferrals, retry, (self.random)()),
            error: Some(error),
            fault: None,
        }
    }

    /// The dead letter to store, if any.
    async fn dead_lettered<A: Acknowledger>(
        &self,
        attempt: &Attempt<'_, A>,
        letter: &DeadLetter,
    ) -> Result<Option<DeadLetter>, Failure> {
        let delivery = &*attempt.delivery;
        let Some((memory, facts)) = self.memory(delivery) else {
            return Ok(Some(letter.clone()));
        };
        let noted = match memory.record_dead_letter(&facts, letter, None).await? {
            DeadLettered::Now => return Ok(Some(letter.clone())),
            DeadLettered::Ended => return Ok(None),
            DeadLettered::Before(noted) => noted,
        };
        let looking = attempt.ack.whereabouts(&noted).await;
        match looking.map_err(Failure::unavailable)? {
            Whereabouts::Known(None) => Ok(None),
            Whereabouts::Known(Some(letter)) => {
                self.note_dead_letter(delivery, letter).await;
                Ok(None)
            }
            Whereabouts::Lost => {
                // The original error is kept, as recorded at the time.
                let mut why = noted.why.clone();
                why.handler = letter.handler;
                if noted.letter.is_none() && noted.is_this {
                    return Ok(Some(why));
                }
                self.record(delivery, DeliveryEnd::DeadLetterLost { at: noted.at });
                // When two deliveries do this at the same time, one of them stores it.
                let recording = memory.record_dead_letter(&facts, &why, Some(&noted));
                let again = recording.await?;
                Ok((again == DeadLettered::Now).then_some(why))
            }
        }
    }

    /// Answers. A dead letter is counted, logged and recorded in the inbox only after the server has confirmed that it
    /// is stored.
    pub(super) async fn end<A: Acknowledger>(
        &self,
        attempt: &Attempt<'_, A>,
        outcome: &Outcome,
        elapsed: Duration,
    ) -> Disposition {
        let (disposition, stored) = self.answer(attempt, outcome).await;
        if let Outcome::Reject(letter) = outcome {
            let is_stored = disposition == Disposition::Settled;
            let end = DeliveryEnd::DeadLettered {
                letter,
                is_stored,
                elapsed,
            };
            self.record(attempt.delivery, end);
            if is_stored {
                self.note_dead_letter(attempt.delivery, stored).await;
            }
        }
        disposition
    }

    /// Records the sequence of the dead letter in the inbox. Without it, another delivery has to search for the dead
    /// letter.
    async fn note_dead_letter(&self, delivery: &Delivery, letter: u64) {
        let Some((memory, facts)) = self.memory(delivery) else {
            return;
        };
        if let Err(error) = memory.dead_letter_stored(&facts, letter).await {
            let (subscriber, sequence) = (&*self.name, delivery.sequence);
            tracing::debug!(subscriber, sequence, %error, "dead letter not recorded in inbox");
        }
    }

    /// The inbox of the event's handler, if it has one.
    fn memory(&self, delivery: &Delivery) -> Option<(&dyn Remembers, Facts)> {
        let memory = self.route(delivery)?.handler.memory()?;
        let never = Cancelled::by(&CancellationToken::new());
        Some((memory, self.facts(delivery, delivery.event()?, never)))
    }
}

/// The dead letter of a message that is not an event.
pub(super) fn unreadable(error: &ReadError) -> DeadLetter {
    let cause = match error {
        ReadError::Name(_) => Cause::Unknown,
        _ => Cause::Undecodable,
    };
    DeadLetter::new(cause, error, 0)
}
