//! The log as an observer: at most one line for each observation. Never decides anything.

use std::time::{Duration, Instant};

use super::{
    BatchEnd, DeadLetterEnd, DeadLetterFacts, DeliveryEnd, DeliveryFacts, KeyChange, LeaseChange,
    Observation, Observer, Path, ReplayChange,
};
use crate::{
    log::{Lasting, short},
    policy::{breaker::Change, failure::Fault, outcome::Outcome},
    replay::tag::ReplayId,
};

/// Writes the log.
#[derive(Default)]
pub(super) struct Log {
    /// Limits the lines about answers that are not confirmed.
    unconfirmed: Lasting,
}

impl Observer for Log {
    fn observe(&self, observation: &Observation<'_>) {
        match *observation {
            Observation::Delivery(of, end) => self.delivery(of, end),
            Observation::Batch(end) => batch(end),
            // The latter two have a line of their own, of their issue.
            Observation::Arrived | Observation::Interrupted { .. } | Observation::Parked { .. } => {
            }
            Observation::DeadLetter(of, end) => dead_letter(of, end),
            Observation::Replay {
                subscriber,
                replay,
                change,
            } => replayed(subscriber, replay, change),
            Observation::Key {
                subscriber,
                key,
                change,
            } => keyed(subscriber, key, change),
            Observation::Lease { subscriber, change } => lease(subscriber, change),
            Observation::Circuit { subscriber, change } => circuit(subscriber, change),
        }
    }
}

/// One line with the common fields of a delivery.
macro_rules! line {
    ($level:ident, ($of:expr, $attempt:expr, $outcome:expr, $elapsed:expr), $($more:tt)*) => {
        tracing::$level!(
            subscriber = $of.subscriber,
            event.id = $of.event.map(|event| tracing::field::display(event.id())),
            event.name = &*short($of.event.map_or($of.subject, |event| event.name().as_str())),
            key = $of.event.and_then(|event| event.key()).map(short).as_deref(),
            stream = $of.stream,
            sequence = $of.sequence,
            replay = $of.replay.map(tracing::field::display),
            attempt = $attempt,
            outcome = $outcome,
            elapsed_ms = millis($elapsed),
            $($more)*
        )
    };
}

impl Log {
    fn delivery(&self, of: DeliveryFacts<'_>, end: DeliveryEnd<'_>) {
        let DeliveryFacts {
            subscriber,
            stream,
            sequence,
            ..
        } = of;
        match end {
            DeliveryEnd::Decided {
                attempt,
                outcome,
                error,
                fault,
                elapsed,
            } => decided(of, attempt, outcome, (error, fault), elapsed),
            DeliveryEnd::DeadLettered {
                letter,
                is_stored: true,
                elapsed,
            } => line!(
                error,
                (of, letter.attempts, "reject", elapsed),
                cause = letter.cause.as_str(),
                error = &*letter.error,
                "dead letter stored"
            ),
            DeliveryEnd::DeadLettered {
                letter,
                is_stored: false,
                elapsed,
            } => line!(
                warn,
                (of, letter.attempts, "unconfirmed", elapsed),
                cause = letter.cause.as_str(),
                error = &*letter.error,
                "dead letter unconfirmed: the event is redelivered"
            ),
            DeliveryEnd::DeadLetterLost { at } => tracing::warn!(
                subscriber,
                stream,
                sequence,
                given_up_at = %at,
                "dead letter lost: no stream has the dead letter of this event; it is stored again"
            ),
            DeliveryEnd::Unconfirmed {
                answer,
                tried,
                error,
            } => {
                // Every answer has its own subject, so the error text differs although the cause is the same.
                if let Some(unsaid) = self.unconfirmed.again(Instant::now()) {
                    tracing::warn!(
                        subscriber,
                        sequence,
                        outcome = answer,
                        tried,
                        unsaid,
                        error,
                        "outcome unconfirmed: without a confirmation the event is redelivered"
                    );
                }
            }
            DeliveryEnd::HandedBack => {
                tracing::info!(subscriber, sequence, "event handed back: the worker stops")
            }
            DeliveryEnd::Unhandled {
                unsaid: Some(unsaid),
            } => tracing::warn!(
                subscriber,
                subject = &*short(of.subject),
                unsaid,
                "unhandled event deferred: it is left to an instance that handles its name; if none ever will, run \
                 `tidings subscribers prune`"
            ),
            DeliveryEnd::Unhandled { unsaid: None }
            | DeliveryEnd::Skipped
            | DeliveryEnd::Dropped
            | DeliveryEnd::Filtered
            | DeliveryEnd::Rehearsed
            | DeliveryEnd::Marker
            | DeliveryEnd::HandledBefore
            | DeliveryEnd::Returned => {}
        }
    }
}

fn decided(
    of: DeliveryFacts<'_>,
    attempt: u32,
    outcome: &Outcome,
    (error, fault): (Option<&str>, Option<Fault>),
    elapsed: Duration,
) {
    let word = outcome.as_str();
    let fault = fault.map(Fault::as_str);
    match outcome {
        Outcome::Ack => line!(debug, (of, attempt, word, elapsed), "event handled"),
        Outcome::Duplicate => line!(debug, (of, attempt, word, elapsed), "duplicate skipped"),
        Outcome::Retry(after) => line!(
            warn,
            (of, attempt, word, elapsed),
            retry_after = ?after,
            fault,
            error,
            "retry scheduled"
        ),
        Outcome::Defer(after) => line!(
            warn,
            (of, attempt, word, elapsed),
            retry_after = ?after,
            fault,
            error,
            "delivery deferred: a dependency of the handler is not available"
        ),
        // It has its line when the server has confirmed the dead letter, or has not.
        Outcome::Reject(_) => {}
    }
}

fn batch(end: BatchEnd<'_>) {
    let BatchEnd {
        stream,
        path,
        events,
        bytes,
        elapsed,
        refusal,
        ..
    } = end;
    match (path, refusal) {
        (Path::Batch, Some(refusal)) => tracing::info!(stream, events, %refusal, "batch refused"),
        (Path::Batch, None) => tracing::debug!(
            stream,
            events,
            bytes,
            elapsed_ms = millis(elapsed),
            "batch stored"
        ),
        // A row that is refused by itself is parked or begins an issue, which has its own line.
        (Path::Single, _) => {}
    }
}

fn dead_letter(of: DeadLetterFacts<'_>, end: DeadLetterEnd) {
    let DeadLetterFacts {
        sequence,
        subscriber,
        event,
        name,
        key,
    } = of;
    let event = event.map(tracing::field::display);
    match end {
        DeadLetterEnd::Redriven => tracing::info!(
            dead_letter = sequence,
            subscriber,
            event.id = event,
            event.name = name,
            key,
            "dead letter redriven"
        ),
        DeadLetterEnd::Discarded => tracing::warn!(
            dead_letter = sequence,
            subscriber,
            event.id = event,
            event.name = name,
            key,
            "dead letter discarded"
        ),
    }
}

fn replayed(subscriber: &str, replay: ReplayId, change: ReplayChange<'_>) {
    match change {
        ReplayChange::Running { completed } => {
            tracing::info!(subscriber, %replay, over = completed, "replay running");
        }
        ReplayChange::Stalled { why } => {
            tracing::warn!(subscriber, %replay, why, "replay stalled");
        }
        ReplayChange::Continued => tracing::info!(subscriber, %replay, "replay continued"),
        ReplayChange::Stopped { end } => {
            tracing::info!(subscriber, %replay, ?end, "replay stopped");
        }
        ReplayChange::Ended { state } => {
            tracing::debug!(subscriber, %replay, state = state.as_str(), "replay ended");
        }
    }
}

fn keyed(subscriber: &str, key: &str, change: KeyChange<'_>) {
    let key = &*short(key);
    match change {
        KeyChange::Parked { stream, sequence } => tracing::error!(
            subscriber,
            key,
            stream,
            sequence,
            "key parked: its events are dead-lettered until they are redriven"
        ),
        KeyChange::StillParked => tracing::info!(subscriber, key, "key still parked"),
        KeyChange::Unparked => tracing::info!(subscriber, key, "key unparked"),
    }
}

fn lease(subscriber: &str, change: LeaseChange) {
    match change {
        LeaseChange::Gained { revision } => {
            tracing::info!(subscriber, revision, "subscriber lease acquired");
        }
        LeaseChange::Standby => {
            tracing::info!(
                subscriber,
                "subscriber standby: another instance holds the lease"
            );
        }
        LeaseChange::Lost => tracing::warn!(
            subscriber,
            "subscriber lease lost: the instance stops and becomes a standby"
        ),
    }
}

fn circuit(subscriber: &str, change: Change) {
    match change {
        Change::Opened {
            failed,
            attempts,
            pause,
        } => tracing::warn!(
            subscriber,
            failed,
            attempts,
            ?pause,
            "circuit opened: nothing is pulled during the pause, then one event is attempted"
        ),
        Change::StaysOpen { pause } => {
            tracing::warn!(
                subscriber,
                ?pause,
                "circuit probe failed: the circuit stays open"
            );
        }
        Change::Closed => tracing::info!(subscriber, "circuit closed"),
    }
}

fn millis(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
