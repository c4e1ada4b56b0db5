//! That an event is handled as part of a replay, of which, and what comes of that. Never decides what is replayed.

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

#[cfg(feature = "outbox")]
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::outcome::Outcome;

/// Names a replay, for ever: 32 hexadecimal digits, which sort by the time when it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReplayId(#[serde(with = "uuid::serde::simple")] Uuid);

/// A text that names no replay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no id of a replay: it has 32 hexadecimal digits, as `tidings replay list` shows")]
pub struct ReplayIdError(String);

/// Of which replay an event is: what it carries to wherever it comes again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) id: ReplayId,
    /// The handlers of this name are called instead of the others.
    pub(crate) shadow: Option<String>,
    /// Whether what its handlers publish is published.
    pub(crate) follow_ups: bool,
}

/// A replay, as those who handle its events know it.
#[derive(Debug, Clone)]
pub(crate) struct Replaying {
    pub(crate) mark: Mark,
    /// Whose memory the inbox is asked for: no other replay's, and not that of the live events.
    #[cfg_attr(not(feature = "outbox"), allow(dead_code))]
    // for the inbox
    pub(crate) scope: String,
    /// Whether the event does not come from the replay itself, but from the retries.
    pub(crate) is_retry: bool,
    pub(crate) course: Arc<Course>,
}

/// What comes of a replay in this process.
#[derive(Debug, Default)]
pub(crate) struct Course {
    counts: [AtomicU64; COUNTS],
    is_cancelled: AtomicBool,
    is_over: AtomicBool,
    failure: Mutex<Option<String>>,
    failed: Notify,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    Filtered,
    Skipped,
    Handled,
    Duplicates,
    Retried,
    DeadLettered,
    Suppressed,
}

const COUNTS: usize = Count::Suppressed as usize + 1;

impl ReplayId {
    /// One that nobody has.
    pub(crate) fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// When it was made.
    #[cfg(feature = "outbox")]
    pub(crate) fn made_at(self) -> DateTime<Utc> {
        let (seconds, nanos) = self.0.get_timestamp().map_or((0, 0), |time| time.to_unix());
        let seconds = i64::try_from(seconds).unwrap_or_default();
        DateTime::from_timestamp(seconds, nanos).unwrap_or_default()
    }
}

impl Mark {
    /// As of an event of a subscriber that comes again.
    pub(crate) fn retried(self, subscriber: &str) -> Replaying {
        Replaying {
            scope: format!("{subscriber}/replay/{}", self.id),
            mark: self,
            is_retry: true,
            course: Arc::default(),
        }
    }
}

impl Replaying {
    /// Whether nothing more is to be done about its event.
    pub(crate) fn is_void(&self) -> bool {
        match self.is_retry {
            true => self.course.is_cancelled.load(Relaxed),
            false => self.course.is_over(),
        }
    }

    /// An event was answered so, and that is confirmed.
    pub(crate) fn ended(&self, outcome: &Outcome) {
        let course = &self.course;
        match outcome {
            Outcome::Retry(_) | Outcome::Postpone(_) if self.is_retry => return,
            Outcome::Retry(_) | Outcome::Postpone(_) => course.add(Count::Retried, 1),
            Outcome::Ack => course.add(Count::Handled, 1),
            Outcome::Duplicate => course.add(Count::Duplicates, 1),
            Outcome::Reject(_) => course.add(Count::DeadLettered, 1),
        }
        if self.is_retry {
            let retried = &course.counts[Count::Retried as usize];
            // Another replica may have counted it.
            let _ = retried.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
        }
    }
}

impl Course {
    pub(crate) fn add(&self, what: Count, count: u64) {
        self.counts[what as usize].fetch_add(count, Relaxed);
    }

    pub(crate) fn count(&self, what: Count) -> u64 {
        self.counts[what as usize].load(Relaxed)
    }

    /// Goes on counting where another replica was.
    pub(crate) fn set(&self, what: Count, count: u64) {
        self.counts[what as usize].store(count, Relaxed);
    }

    /// Somebody has ended it: what of it comes again is dropped, too.
    pub(crate) fn cancel(&self) {
        self.is_cancelled.store(true, Relaxed);
        self.is_over.store(true, Relaxed);
    }

    /// It is over: what of it comes again goes on.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Relaxed);
    }

    /// It cannot go on.
    pub(crate) fn fail(&self, why: String) {
        self.is_over.store(true, Relaxed);
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(why);
        drop(failure);
        self.failed.notify_one();
    }

    /// Whether its consumers are, or will be, deleted.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Relaxed)
    }

    /// Waits until it cannot go on, and says why.
    pub(crate) async fn failure(&self) -> String {
        loop {
            let failure = self
                .failure
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            if let Some(why) = failure {
                return why;
            }
            self.failed.notified().await;
        }
    }
}

impl fmt::Display for ReplayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}

impl FromStr for ReplayId {
    type Err = ReplayIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = Uuid::parse_str(text).ok();
        let id = id.filter(|id| id.get_version_num() == 7);
        id.map(Self).ok_or_else(|| ReplayIdError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_shown() {
        let id = ReplayId::new();
        assert_eq!(id.to_string().len(), 32);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{id}\""));
        for text in ["", "latest", "936da01f9abd4d9d80c702af85c822a8"] {
            assert!(text.parse::<ReplayId>().is_err(), "{text:?}");
        }
    }

    fn replaying() -> Replaying {
        let (id, shadow, follow_ups) = (ReplayId::new(), None, false);
        let mark = Mark {
            id,
            shadow,
            follow_ups,
        };
        Replaying {
            is_retry: false,
            ..mark.retried("w")
        }
    }

    #[test]
    fn an_event_that_ends_among_the_retries_is_counted_once() {
        let first = replaying();
        let again = Replaying {
            is_retry: true,
            ..first.clone()
        };
        let retry = Outcome::Retry(Duration::ZERO);
        first.ended(&retry);
        first.ended(&Outcome::Ack);
        again.ended(&retry);
        let counts = |what| first.course.count(what);
        assert_eq!((counts(Count::Retried), counts(Count::Handled)), (1, 1));
        again.ended(&Outcome::Ack);
        assert_eq!((counts(Count::Retried), counts(Count::Handled)), (0, 2));
        again.ended(&Outcome::Ack);
        assert_eq!(counts(Count::Retried), 0, "another replica has counted it");
    }

    #[test]
    fn what_comes_again_is_dropped_when_the_replay_is_cancelled_but_not_when_it_failed() {
        let first = replaying();
        let again = Replaying {
            is_retry: true,
            ..first.clone()
        };
        first.course.fail("x".into());
        assert_eq!((first.is_void(), again.is_void()), (true, false));
        first.course.cancel();
        assert!(again.is_void());
    }

    #[test]
    fn fuzz_ids_of_replays() {
        let seeds = [
            "0190e6e47a3e7c3e9d3e3b1f0d8a6a11",
            "0190E6E4-7A3E-7C3E-9D3E-3B1F0D8A6A11",
            "ffffffffffff7fffbfffffffffffffff",
        ];
        tidings_fuzz::fuzz_text("id of a replay", &seeds, |text| {
            match text.parse::<ReplayId>() {
                Ok(id) => {
                    #[cfg(feature = "outbox")]
                    assert!(id.made_at() >= DateTime::UNIX_EPOCH);
                    id.to_string().parse::<ReplayId>() == Ok(id)
                }
                Err(error) => error.to_string().is_empty(),
            }
        });
    }
}
