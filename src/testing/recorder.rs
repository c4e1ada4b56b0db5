//! An acknowledger that records instead of sending. Never decides anything.

use std::{
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use crate::{
    executor::{AckError, Acknowledger, Past},
    policy::outcome::{DeadLetter, Outcome},
};

/// Takes the place of the server.
pub(super) struct Recorder {
    answers: Mutex<Answers>,
    /// The process dies here instead of the ack.
    dies: Option<Arc<Notify>>,
}

/// What was recorded of an attempt.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) outcome: Option<Outcome>,
    pub(super) error: Option<String>,
    /// How long until the event is redelivered.
    pub(super) retry: Option<Duration>,
}

impl Recorder {
    pub(super) fn new(dies: Option<Arc<Notify>>) -> Self {
        Self {
            answers: Mutex::default(),
            dies,
        }
    }

    pub(super) fn answers(self) -> Answers {
        self.answers
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Acknowledger for Recorder {
    fn decided(&self, outcome: &Outcome, error: Option<&str>) {
        let mut answers = self.record();
        answers.outcome = Some(outcome.clone());
        answers.error = error.map(str::to_owned);
    }

    async fn ack(&self) -> Result<(), AckError> {
        if let Some(dies) = &self.dies {
            dies.notify_one();
            pending::<()>().await;
        }
        Ok(())
    }

    async fn retry(&self, after: Duration, _past: &Past) -> Result<(), AckError> {
        self.record().retry = Some(after);
        Ok(())
    }

    async fn hand_back(&self, _after: Duration) -> Result<(), AckError> {
        Ok(())
    }

    async fn dead_letter(&self, letter: &DeadLetter) -> Result<u64, AckError> {
        let mut answers = self.record();
        answers.error = Some(letter.error.clone());
        Ok(0)
    }
}
