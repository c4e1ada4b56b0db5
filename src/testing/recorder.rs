//! What a test worker learns of an attempt: an observer of the outcome, and an acknowledger that sends nothing. Never
//! decides anything.

use std::{
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use crate::{
    executor::{AckError, Acknowledger, Past},
    observer::{DeliveryEnd, Observation, Observer},
    policy::outcome::{DeadLetter, Outcome},
};

/// Observes the attempts of a worker, which makes one at a time.
#[derive(Default)]
pub(super) struct Recorder(Mutex<Recorded>);

/// What was observed of an attempt.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    pub(super) outcome: Option<Outcome>,
    pub(super) error: Option<String>,
}

/// Takes the place of the server.
pub(super) struct Answers {
    /// How long until the event is redelivered.
    retry: Mutex<Option<Duration>>,
    /// The process dies here instead of the ack.
    dies: Option<Arc<Notify>>,
}

impl Recorder {
    /// Takes what was observed since the last call.
    pub(super) fn take(&self) -> Recorded {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, outcome: &Outcome, error: Option<&str>) {
        let error = match outcome {
            Outcome::Reject(letter) => Some(&*letter.error),
            Outcome::Ack | Outcome::Duplicate | Outcome::Retry(_) | Outcome::Defer(_) => error,
        };
        let recorded = Recorded {
            outcome: Some(outcome.clone()),
            error: error.map(str::to_owned),
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = recorded;
    }
}

impl Observer for Recorder {
    fn observe(&self, observation: &Observation<'_>) {
        match observation {
            Observation::Delivery(_, end) => match end {
                DeliveryEnd::Decided { outcome, error, .. } => self.note(outcome, *error),
                DeliveryEnd::Skipped => self.note(&Outcome::Ack, None),
                DeliveryEnd::DeadLettered { .. }
                | DeliveryEnd::DeadLetterLost { .. }
                | DeliveryEnd::Unconfirmed { .. }
                | DeliveryEnd::HandedBack
                | DeliveryEnd::Unhandled { .. }
                | DeliveryEnd::Dropped
                | DeliveryEnd::Filtered
                | DeliveryEnd::Rehearsed
                | DeliveryEnd::Marker
                | DeliveryEnd::HandledBefore
                | DeliveryEnd::Returned => {}
            },
            Observation::Arrived
            | Observation::Batch(_)
            | Observation::Interrupted { .. }
            | Observation::Parked { .. }
            | Observation::DeadLetter(..)
            | Observation::Replay { .. }
            | Observation::Key { .. }
            | Observation::Lease { .. }
            | Observation::Circuit { .. } => {}
        }
    }
}

impl Answers {
    pub(super) fn new(dies: Option<Arc<Notify>>) -> Self {
        Self {
            retry: Mutex::default(),
            dies,
        }
    }

    /// How long until the event is redelivered, if so.
    pub(super) fn retry(&self) -> Option<Duration> {
        *self.stored()
    }

    fn stored(&self) -> MutexGuard<'_, Option<Duration>> {
        self.retry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Acknowledger for Answers {
    async fn ack(&self) -> Result<(), AckError> {
        if let Some(dies) = &self.dies {
            dies.notify_one();
            pending::<()>().await;
        }
        Ok(())
    }

    async fn retry(&self, after: Duration, _past: &Past) -> Result<(), AckError> {
        *self.stored() = Some(after);
        Ok(())
    }

    async fn hand_back(&self, _after: Duration) -> Result<(), AckError> {
        Ok(())
    }

    async fn dead_letter(&self, _letter: &DeadLetter) -> Result<u64, AckError> {
        Ok(0)
    }
}
