//! What one process tells of a subscriber that it runs. A plain value; nothing here is stored anywhere.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A process that runs a subscriber, as it was when it was asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Replica {
    /// The subscriber.
    pub subscriber: String,
    /// Tells it from every other replica, a restarted one included.
    pub id: String,
    /// The name of its machine.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// The version of Tidings that it runs.
    pub version: String,
    /// When its worker began.
    pub started_at: DateTime<Utc>,
    /// What it is doing.
    pub activity: Activity,
    /// Why it is not getting on, if so: a stall, a missing permission, an answer that is not confirmed.
    pub trouble: Option<String>,
    /// Why it runs no [replays](crate::Replays), if so: it may not look for them.
    #[serde(default)]
    pub replay_trouble: Option<String>,
    /// Whether it keeps the order of keys.
    pub ordered: bool,
    /// Whether it is the replica that works; only of an ordered subscriber.
    pub holds_lease: Option<bool>,
    /// The state of the circuit: `closed`, `open` or `half-open`.
    pub circuit: String,
    /// How many handlers run; `None` while it does not work.
    pub running: Option<usize>,
    /// How many events wait in the process for their next attempt; `None` while it does not work.
    pub resting: Option<usize>,
    /// How many events are in hand: those that run, rest, or wait for their turn.
    pub in_hand: usize,
    /// The size of what is in hand.
    pub in_hand_bytes: usize,
    /// The keys behind whose head most events wait, the most first; ten at most. Only of an ordered subscriber.
    pub hottest: Vec<HotKey>,
    /// How many events are handled at once, at most.
    pub concurrency: usize,
    /// How many attempts begin in a time, such as `100 per second`; `None` for no limit.
    pub rate: Option<String>,
    /// How many bytes are in hand, at most.
    pub memory: usize,
    /// How long an attempt may take, in milliseconds.
    pub timeout_ms: u64,
    /// When failures are tried again, as [`Retry`](crate::Retry) is shown.
    pub retry: String,
    /// Attempts that ended well since the worker began, duplicates included.
    pub handled: u64,
    /// Attempts that failed since the worker began and whose event is tried again.
    pub failed: u64,
    /// Events that it gave up since the worker began.
    pub dead_lettered: u64,
    /// When the last delivery came.
    pub last_delivery_at: Option<DateTime<Utc>>,
    /// How it wants the consumers of the subscriber to be.
    pub wants: Vec<WantedConsumer>,
    /// What its clock said when it answered.
    #[serde(default)]
    pub clock: Option<DateTime<Utc>>,
    /// Its shadows, and the names of the events that each handles.
    #[serde(default)]
    pub shadows: BTreeMap<String, Vec<String>>,
}

/// What a replica is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Activity {
    /// It sets itself up, or cannot.
    Begins,
    /// It handles what comes.
    Works,
    /// Another replica works, because the subscriber is ordered.
    StandsBy,
    /// It was told to stop, and ends what it has begun.
    Drains,
    /// What a later version of Tidings does.
    #[serde(other)]
    Unknown,
}

/// A key with events that wait behind its first one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HotKey {
    /// The key; shortened when it is very long.
    pub key: String,
    /// How many wait.
    pub waiting: usize,
}

/// The consumer of one stream as a replica wants it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WantedConsumer {
    /// The stream.
    pub stream: String,
    /// The settings that Tidings owns, under the names of the JetStream API.
    pub settings: Map<String, Value>,
}

/// Where all workers are asked which subscribers they run: each answers with the names.
pub(crate) const EVERYBODY: &str = "tidings.status";

/// Where the replicas of a subscriber are asked.
pub(crate) fn status_subject(subscriber: &str) -> String {
    format!("tidings.status.{subscriber}")
}

/// Whether a text can be the name of a durable: nothing else may become a part of a subject.
pub(crate) fn can_be_durable(name: &str) -> bool {
    let is_refused = |c: char| c.is_whitespace() || c.is_control() || ".*>/\\".contains(c);
    !name.is_empty() && name.len() <= 255 && !name.contains(is_refused)
}

impl Activity {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Begins => "begins",
            Self::Works => "works",
            Self::StandsBy => "stands-by",
            Self::Drains => "drains",
            Self::Unknown => "unknown",
        }
    }
}

impl HotKey {
    /// Keys may be of any length, and what a replica tells is one message.
    pub(crate) fn new(key: &str, waiting: usize) -> Self {
        const LONGEST: usize = 200;
        let key = match key.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}...", &key[..end]),
            None => key.to_owned(),
        };
        Self { key, waiting }
    }
}

impl WantedConsumer {
    pub(crate) fn new(stream: String, settings: Map<String, Value>) -> Self {
        Self { stream, settings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_later_version_does_can_be_read() {
        let read = |text| serde_json::from_str::<Activity>(text).unwrap();
        assert_eq!(read("\"stands-by\""), Activity::StandsBy);
        assert_eq!(read("\"dreams\""), Activity::Unknown);
        let written = serde_json::to_string(&Activity::StandsBy).unwrap();
        assert_eq!(written, format!("\"{}\"", Activity::StandsBy.as_str()));
    }

    #[test]
    fn what_would_be_more_than_one_word_of_a_subject_is_no_durable() {
        assert!(can_be_durable("welcome-email_2"));
        for text in ["", "a b", "a.b", "*", ">", "a\r\nPUB x 0", "a\tb"] {
            assert!(!can_be_durable(text), "{text:?}");
        }
    }

    #[test]
    fn a_long_key_is_shortened() {
        assert_eq!(HotKey::new(&"ä".repeat(1000), 1).key.chars().count(), 203);
    }
}
