//! When it was seen last that the tables are of this version. Never looks itself.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::OnceCell, time::Instant};

use crate::outbox::OutboxError;

/// For how long what was seen holds: a migration under a running worker is noticed within this time, at its next event.
const HOLDS: Duration = Duration::from_secs(10);

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct VersionSeen {
    /// Whether it can be known: not every role may read it.
    first: OnceCell<bool>,
    at: Mutex<Option<Instant>>,
}

impl VersionSeen {
    /// Looks, unless that was done once, and found to be well. Whoever looks says whether it can be known.
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

    /// Whether it is time to look again. One does, and the others go on meanwhile; unless it was not so when somebody
    /// looked last: then each does.
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

    /// What was found then.
    pub(super) fn seen(&self, found: Result<(), OutboxError>) -> Result<(), OutboxError> {
        self.note(found.is_ok().then(Instant::now));
        found
    }

    fn note(&self, seen: Option<Instant>) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }
}
