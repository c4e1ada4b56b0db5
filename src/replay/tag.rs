//! Whether an event is handled as part of a replay, which one, and the counts of that. Never decides what is replayed.

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

use crate::policy::outcome::Outcome;

/// The permanent id of a replay: 32 hexadecimal digits, which sort by the time of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReplayId(#[serde(with = "uuid::serde::simple")] Uuid);

/// A text that is not the id of a replay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no id of a replay: it has 32 hexadecimal digits, as `tidings replay list` shows")]
pub struct ReplayIdError(String);

/// The replay that an event belongs to, as it is stored with the event's retries and dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReplayTag {
    pub(crate) id: ReplayId,
    /// The shadow whose handlers are called instead of the live ones.
    pub(crate) shadow: Option<String>,
    /// Whether the events that its handlers publish are published.
    pub(crate) follow_ups: bool,
}

/// A replay, as seen by the code that handles its events.
#[derive(Debug, Clone)]
pub(crate) struct Replaying {
    pub(crate) tag: ReplayTag,
    /// The scope of the inbox: separate from that of other replays and of the live events.
    #[cfg_attr(not(feature = "outbox"), allow(dead_code))]
    // read by the inbox
    pub(crate) scope: String,
    /// Whether the event comes from the retries and not from the replay itself.
    pub(crate) is_retry: bool,
    pub(crate) counters: Arc<ReplayCounters>,
}

/// The state of a replay in this process.
#[derive(Debug, Default)]
pub(crate) struct ReplayCounters {
    counts: [AtomicU64; COUNTS],
    is_cancelled: AtomicBool,
    is_over: AtomicBool,
    failure: Mutex<Option<String>>,
    failed: Notify,
}

/// The outcomes that are counted.
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
    /// A new, unique id.
    pub(crate) fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// When the id was created.
    #[cfg(feature = "outbox")]
    pub(crate) fn made_at(self) -> DateTime<Utc> {
        let (seconds, nanos) = self.0.get_timestamp().map_or((0, 0), |time| time.to_unix());
        let seconds = i64::try_from(seconds).unwrap_or_default();
        DateTime::from_timestamp(seconds, nanos).unwrap_or_default()
    }
}

impl ReplayTag {
    /// For an event of a subscriber that comes from the retries.
    pub(crate) fn retried(self, subscriber: &str) -> Replaying {
        Replaying {
            scope: format!("{subscriber}/replay/{}", self.id),
            tag: self,
            is_retry: true,
            counters: Arc::default(),
        }
    }
}

impl Replaying {
    /// Whether its event is to be dropped.
    pub(crate) fn is_void(&self) -> bool {
        match self.is_retry {
            true => self.counters.is_cancelled.load(Relaxed),
            false => self.counters.is_over(),
        }
    }

    /// Counts the outcome of an event after its answer is confirmed.
    pub(crate) fn ended(&self, outcome: &Outcome) {
        let counters = &self.counters;
        match outcome {
            Outcome::Retry(_) | Outcome::Defer(_) if self.is_retry => return,
            Outcome::Retry(_) | Outcome::Defer(_) => counters.add(Count::Retried, 1),
            Outcome::Ack => counters.add(Count::Handled, 1),
            Outcome::Duplicate => counters.add(Count::Duplicates, 1),
            Outcome::Reject(_) => counters.add(Count::DeadLettered, 1),
        }
        if self.is_retry {
            let retried = &counters.counts[Count::Retried as usize];
            // Another instance may have counted it.
            let _ = retried.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
        }
    }
}

impl ReplayCounters {
    pub(crate) fn add(&self, what: Count, count: u64) {
        self.counts[what as usize].fetch_add(count, Relaxed);
    }

    pub(crate) fn count(&self, what: Count) -> u64 {
        self.counts[what as usize].load(Relaxed)
    }

    /// Continues the count of another instance.
    pub(crate) fn set(&self, what: Count, count: u64) {
        self.counts[what as usize].store(count, Relaxed);
    }

    /// An operator has ended the replay: its events among the retries are dropped too.
    pub(crate) fn cancel(&self) {
        self.is_cancelled.store(true, Relaxed);
        self.is_over.store(true, Relaxed);
    }

    /// The replay has ended: its events among the retries are still handled.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Relaxed);
    }

    /// The replay cannot continue.
    pub(crate) fn fail(&self, why: String) {
        self.is_over.store(true, Relaxed);
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(why);
        drop(failure);
        self.failed.notify_one();
    }

    /// Whether its consumers are deleted, or will be.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Relaxed)
    }

    /// Waits until the replay cannot continue, and returns the reason.
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
        let tag = ReplayTag {
            id,
            shadow,
            follow_ups,
        };
        Replaying {
            is_retry: false,
            ..tag.retried("w")
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
        let counts = |what| first.counters.count(what);
        assert_eq!((counts(Count::Retried), counts(Count::Handled)), (1, 1));
        again.ended(&Outcome::Ack);
        assert_eq!((counts(Count::Retried), counts(Count::Handled)), (0, 2));
        again.ended(&Outcome::Ack);
        assert_eq!(counts(Count::Retried), 0, "another instance has counted it");
    }

    #[test]
    fn only_a_cancelled_replay_drops_its_redeliveries() {
        let first = replaying();
        let again = Replaying {
            is_retry: true,
            ..first.clone()
        };
        first.counters.fail("x".into());
        assert_eq!((first.is_void(), again.is_void()), (true, false));
        first.counters.cancel();
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
