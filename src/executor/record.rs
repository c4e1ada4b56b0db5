//! Logs and counts attempts. Decides nothing.

use std::time::{Duration, Instant};

use super::{AckError, Delivery, Executor};
use crate::{
    log::short,
    policy::{
        failure::told,
        outcome::{DeadLetter, Outcome},
    },
};

/// One log event with the common fields of a delivery.
macro_rules! log {
    ($level:ident, ($executor:expr, $delivery:expr, $attempt:expr, $outcome:expr, $elapsed:expr), $($more:tt)*) => {
        tracing::$level!(
            subscriber = &*$executor.name,
            event.id = $delivery.envelope.as_ref().ok().map(|e| tracing::field::display(e.id())),
            event.name = &*short($delivery.envelope.as_ref().map_or(&*$delivery.subject, |e| e.name().as_str())),
            key = $delivery.envelope.as_ref().ok().and_then(|e| e.key()).map(short).as_deref(),
            stream = &*$delivery.stream,
            sequence = $delivery.sequence,
            replay = $delivery.replay.as_ref().map(|replay| tracing::field::display(replay.mark.id)),
            attempt = $attempt,
            outcome = $outcome,
            elapsed_ms = u64::try_from($elapsed.as_millis()).unwrap_or(u64::MAX),
            $($more)*
        )
    };
}

impl<S: Send + Sync + 'static> Executor<S> {
    /// Logs an attempt, one log event each. A dead letter is logged [later](Executor::record_letter).
    pub(super) fn record(
        &self,
        delivery: &Delivery,
        attempt: u32,
        outcome: &Outcome,
        error: Option<String>,
        elapsed: Duration,
    ) {
        let of = outcome.as_str();
        match outcome {
            Outcome::Ack => log!(
                debug,
                (self, delivery, attempt, of, elapsed),
                "event handled"
            ),
            Outcome::Duplicate => {
                log!(
                    debug,
                    (self, delivery, attempt, of, elapsed),
                    "duplicate skipped"
                );
            }
            Outcome::Retry(after) => log!(
                warn,
                (self, delivery, attempt, of, elapsed),
                retry_after = ?after,
                error,
                "retry scheduled"
            ),
            Outcome::Postpone(after) => log!(
                warn,
                (self, delivery, attempt, of, elapsed),
                retry_after = ?after,
                error,
                "delivery deferred: a dependency of the handler is not available"
            ),
            Outcome::Reject(_) => return,
        }
        self.tally.ended(outcome);
    }

    /// Logs a dead-lettered event, one log event, once the server has confirmed the dead letter or failed to.
    pub(super) fn record_letter(
        &self,
        delivery: &Delivery,
        letter: &DeadLetter,
        is_stored: bool,
        elapsed: Duration,
    ) {
        let (attempt, cause, error) = (letter.attempts, letter.cause.as_str(), &*letter.error);
        self.tally.dead_lettered(is_stored);
        if is_stored {
            log!(
                error,
                (self, delivery, attempt, "reject", elapsed),
                cause,
                error,
                "dead letter stored"
            );
        } else {
            log!(
                warn,
                (self, delivery, attempt, "unconfirmed", elapsed),
                cause,
                error,
                "dead letter unconfirmed: the event is redelivered"
            );
        }
    }

    pub(super) fn unconfirmed(
        &self,
        delivery: &Delivery,
        outcome: &str,
        tried: u32,
        error: &AckError,
    ) {
        let error = told(error);
        self.tally.unconfirmed(&error);
        // Every answer has its own subject, so the error text differs although the cause is the same.
        let Some(unsaid) = self.unconfirmed.again(Instant::now()) else {
            return;
        };
        tracing::warn!(
            subscriber = &*self.name,
            sequence = delivery.sequence,
            outcome,
            tried,
            unsaid,
            error,
            "outcome unconfirmed: without a confirmation the event is redelivered"
        );
    }
}
