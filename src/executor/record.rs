//! What the log and the counts say of attempts. Decides nothing.

use std::time::{Duration, Instant};

use tidings_contract::Envelope;

use super::{Arrival, Executor, Unanswered};
use crate::{failure::told, log::short, outcome::Outcome};

impl<S: Send + Sync + 'static> Executor<S> {
    /// The one log event of a delivery's attempt.
    pub(super) fn record(
        &self,
        arrival: &Arrival,
        attempt: u32,
        outcome: &Outcome,
        error: Option<String>,
        elapsed: Duration,
    ) {
        self.tally.ended(outcome);
        macro_rules! log {
            ($level:ident, $($more:tt)*) => {
                tracing::$level!(
                    subscriber = &*self.name,
                    event.id = arrival.envelope.as_ref().ok().map(|e| tracing::field::display(e.id())),
                    event.name = &*short(arrival.envelope.as_ref().map_or(&*arrival.subject, |e| e.name().as_str())),
                    key = arrival.envelope.as_ref().ok().and_then(|e| e.key()).map(short).as_deref(),
                    stream = &*arrival.stream,
                    sequence = arrival.sequence,
                    replay = arrival.replay.as_ref().map(|replay| tracing::field::display(replay.mark.id)),
                    attempt,
                    outcome = outcome.as_str(),
                    elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
                    $($more)*
                )
            };
        }
        match outcome {
            Outcome::Ack => log!(debug, "handled"),
            Outcome::Duplicate => log!(debug, "handled before"),
            Outcome::Retry(after) => {
                log!(warn, retry_after = ?after, error, "failed: it is tried again");
            }
            Outcome::Postpone(after) => {
                log!(warn, retry_after = ?after, error, "what the handler needs is not there: it is tried again");
            }
            Outcome::Reject(letter) => {
                log!(
                    error,
                    cause = letter.cause.as_str(),
                    error = letter.error,
                    "dead letter"
                );
            }
        }
    }

    pub(super) fn unconfirmed(
        &self,
        arrival: &Arrival,
        outcome: &str,
        tried: u32,
        error: &Unanswered,
    ) {
        let error = told(error);
        self.tally.unconfirmed(&error);
        // Each answer has a subject of its own, which is no other cause.
        let Some(unsaid) = self.unconfirmed.again(Instant::now()) else {
            return;
        };
        tracing::warn!(
            subscriber = &*self.name,
            sequence = arrival.sequence,
            outcome,
            tried,
            unsaid,
            error,
            "the server did not confirm the outcome: without it the event comes again"
        );
    }
}

