//! When the tables were last found to be of this version. Never checks itself.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::OnceCell, time::Instant};

use crate::outbox::OutboxError;

/// How long a check stays valid: a migration under a running worker is noticed within this time, at its next event.
const HOLDS: Duration = Duration::from_secs(10);

/// The last check.
#[derive(Debug, Default)]
pub(super) struct VersionSeen {
    /// Whether the version can be known: not every role may read it.
    first: OnceCell<bool>,
    at: Mutex<Option<Instant>>,
}

impl VersionSeen {
    /// Checks the version, unless an earlier check succeeded. `look` returns whether the version can be known.
    pub(super) async fn once<F>(&self, look: impl FnOnce() -> F) -> Result<(), OutboxError>
    where
        F: Future<Output = Result<bool, OutboxError>>,
    {
        let first = async || {
            let is_known = look().await?;
            self.note(Some(Instant::now()));
            Ok(is_known)
        };
        self.first.get_or_try_init(first).await.map(drop)
    }

    /// Whether it is time to check again. One caller checks while the others continue; but after a failed check,
    /// each caller checks.
    pub(super) fn is_due(&self) -> bool {
        if self.first.get() != Some(&true) {
            return false;
        }
        let now = Instant::now();
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        match *at {
            Some(seen) if now - seen < HOLDS => false,
            Some(_) => {
                *at = Some(now);
                true
            }
            None => true,
        }
    }

    /// Records the result of a check.
    pub(super) fn seen(&self, found: Result<(), OutboxError>) -> Result<(), OutboxError> {
        self.note(found.is_ok().then(Instant::now));
        found
    }

    fn note(&self, seen: Option<Instant>) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }
}
