//! Sends the answer of a delivery until it is confirmed. Never decides which answer.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Acknowledger, Attempt, Delivery, Disposition, Executor};
use crate::{
    observer::{Delivered, DeliveryEnd, Settlement, Settling, traces},
    policy::outcome::Outcome,
};

/// The pauses between two tries of an answer.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often an answer is tried before it is left to the server's redelivery.
const ANSWER_TRIES: u32 = 3;

impl<S: Send + Sync + 'static> Executor<S> {
    /// Answers, and counts a confirmed outcome of a replay. Returns the sequence of the dead letter, if one was stored.
    pub(super) async fn answer<A: Acknowledger>(
        &self,
        attempt: &Attempt<'_, A>,
        outcome: &Outcome,
    ) -> (Disposition, u64) {
        let settling = self.settling(attempt.delivery, outcome);
        let answered = self.confirm(attempt, outcome).await;
        if let Some(settling) = settling {
            settling.ended(answered.0 == Disposition::Settled);
        }
        if let (Disposition::Settled, Some(replay)) = (answered.0, &attempt.delivery.replay) {
            replay.ended(outcome);
        }
        answered
    }

    /// What the trace observer has begun, if there is one.
    fn settling(&self, delivery: &Delivery, outcome: &Outcome) -> Option<Box<dyn Settling>> {
        traces::installed()?.settling(&Settlement {
            subscriber: &self.name,
            delivered: Delivered {
                event: delivery.event()?,
                stream: &delivery.stream,
                sequence: delivery.sequence,
                stored_at: delivery.stored_at,
                attempt: delivery.next_attempt(),
                first_failed_at: delivery.past.first_failed_at,
                redrives: delivery.past.redrives,
                replay: delivery.replay.as_ref().map(|replay| replay.tag.id),
            },
            outcome: outcome.as_str(),
        })
    }

    /// Answers until it is confirmed. An ordered subscriber keeps trying: its lane must not continue while the server
    /// may redeliver this event. An unordered subscriber stops after a few tries and relies on the redelivery.
    pub(super) async fn confirm<A: Acknowledger>(
        &self,
        attempt: &Attempt<'_, A>,
        outcome: &Outcome,
    ) -> (Disposition, u64) {
        let Attempt { delivery, ack, .. } = attempt;
        let mut pause = FIRST_PAUSE;
        for tried in 1_u32.. {
            let answered = match outcome {
                Outcome::Ack | Outcome::Duplicate => ack.ack().await.map(|()| 0),
                Outcome::Retry(after) | Outcome::Defer(after) => {
                    ack.retry(*after, &delivery.past).await.map(|()| 0)
                }
                Outcome::Reject(letter) => ack.dead_letter(letter).await,
            };
            let error = match answered {
                Ok(letter) => {
                    self.tally.confirmed();
                    return (Disposition::Settled, letter);
                }
                Err(error) => error,
            };
            self.record_unconfirmed(delivery, outcome.as_str(), tried, &error);
            let is_enough = tried >= ANSWER_TRIES && !self.subscriber.ordered;
            if is_enough || waited(pause, attempt.halt).await.is_none() {
                break;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        (Disposition::Abandoned, 0)
    }

    /// An ordered subscriber sends nothing: its next active instance begins at the ack floor.
    pub(super) async fn hand_back<A: Acknowledger>(&self, attempt: &Attempt<'_, A>) -> Disposition {
        self.record(attempt.delivery, DeliveryEnd::HandedBack);
        if self.subscriber.ordered {
            return Disposition::Abandoned;
        }
        self.hand_back_after(attempt, Duration::ZERO).await
    }

    /// Has the event redelivered after this time, as if it had not been delivered.
    pub(super) async fn hand_back_after<A: Acknowledger>(
        &self,
        attempt: &Attempt<'_, A>,
        after: Duration,
    ) -> Disposition {
        for tried in 1..=ANSWER_TRIES {
            let Err(error) = attempt.ack.hand_back(after).await else {
                self.tally.confirmed();
                break;
            };
            self.record_unconfirmed(attempt.delivery, "hand back", tried, &error);
            if waited(FIRST_PAUSE, attempt.halt).await.is_none() {
                break;
            }
        }
        Disposition::Abandoned
    }
}

/// Waits; `None` when the worker halts first.
async fn waited(pause: Duration, halt: &CancellationToken) -> Option<()> {
    halt.run_until_cancelled(tokio::time::sleep(pause)).await
}
