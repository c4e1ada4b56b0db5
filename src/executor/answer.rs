//! Sends the answer of a delivery until it is confirmed. Never decides which answer.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Acknowledger, Arrival, Executor, Step};
use crate::policy::outcome::Outcome;

/// The pauses between two tries of an answer.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often an answer is tried before it is left to the server's redelivery.
const ANSWER_TRIES: u32 = 3;

impl<S: Send + Sync + 'static> Executor<S> {
    /// Answers, and counts a confirmed outcome of a replay. Returns the sequence of the dead letter, if one was stored.
    pub(super) async fn answer_with_letter(
        &self,
        arrival: &Arrival,
        outcome: &Outcome,
        acknowledger: &impl Acknowledger,
        halt: &CancellationToken,
    ) -> (Step, u64) {
        let answered = self.answered(arrival, outcome, acknowledger, halt).await;
        if let (Step::Over, Some(replay)) = (answered.0, &arrival.replay) {
            replay.ended(outcome);
        }
        answered
    }

    /// Answers until it is confirmed. An ordered subscriber keeps trying: its lane must not continue while the server
    /// may redeliver this event. An unordered subscriber stops after a few tries and relies on the redelivery.
    pub(super) async fn answered(
        &self,
        arrival: &Arrival,
        outcome: &Outcome,
        acknowledger: &impl Acknowledger,
        halt: &CancellationToken,
    ) -> (Step, u64) {
        let mut pause = FIRST_PAUSE;
        for tried in 1_u32.. {
            let answered = match outcome {
                Outcome::Ack | Outcome::Duplicate => acknowledger.ack().await.map(|()| 0),
                Outcome::Retry(after) | Outcome::Defer(after) => {
                    let retrying = acknowledger.retry(*after, &arrival.past);
                    retrying.await.map(|()| 0)
                }
                Outcome::Reject(letter) => acknowledger.dead_letter(letter).await,
            };
            let error = match answered {
                Ok(letter) => {
                    self.tally.confirmed();
                    return (Step::Over, letter);
                }
                Err(error) => error,
            };
            self.unconfirmed(arrival, outcome.as_str(), tried, &error);
            let is_enough = tried >= ANSWER_TRIES && !self.subscriber.ordered;
            if is_enough || waited(pause, halt).await.is_none() {
                break;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        (Step::Left, 0)
    }

    /// An ordered subscriber sends nothing: its next active instance begins at the ack floor.
    pub(super) async fn hand_back(
        &self,
        arrival: &Arrival,
        acknowledger: &impl Acknowledger,
        halt: &CancellationToken,
    ) -> Step {
        tracing::info!(
            subscriber = &*self.name,
            sequence = arrival.sequence,
            "event handed back: the worker stops"
        );
        if self.subscriber.ordered {
            return Step::Left;
        }
        self.give_back(arrival, Duration::ZERO, acknowledger, halt)
            .await
    }

    pub(super) async fn give_back(
        &self,
        arrival: &Arrival,
        after: Duration,
        acknowledger: &impl Acknowledger,
        halt: &CancellationToken,
    ) -> Step {
        for tried in 1..=ANSWER_TRIES {
            let Err(error) = acknowledger.hand_back(after).await else {
                break;
            };
            self.unconfirmed(arrival, "hand back", tried, &error);
            if waited(FIRST_PAUSE, halt).await.is_none() {
                break;
            }
        }
        Step::Left
    }
}

/// Waits; `None` when the worker halts first.
async fn waited(pause: Duration, halt: &CancellationToken) -> Option<()> {
    halt.run_until_cancelled(tokio::time::sleep(pause)).await
}
