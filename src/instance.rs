//! What one process reports of a subscriber that it runs. A plain value; nothing here is stored anywhere.

mod signs;

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::signs::{FailingKey, OldestAttempt, OpenCircuit};
use crate::policy::breaker::CircuitState;

/// An instance of a subscriber: a process that runs it, as it was when it answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Instance {
    /// The subscriber.
    pub subscriber: String,
    /// Identifies the instance. A restarted process has another id.
    pub id: String,
    /// The name of its host.
    pub host: String,
    /// Its process id.
    pub pid: u32,
    /// The version of Tidings that it runs.
    pub version: String,
    /// When its worker started.
    pub started_at: DateTime<Utc>,
    /// What it is doing.
    pub activity: Activity,
    /// Why it makes no progress, if so: a stall, a missing permission, an answer that is not confirmed.
    pub issue: Option<String>,
    /// Why it runs no [replays](crate::replays::Replays), if so: it lacks the permission to look for them.
    #[serde(default)]
    pub replay_issue: Option<String>,
    /// Whether it is ordered by key.
    pub ordered: bool,
    /// Whether it is the active instance; only of an ordered subscriber.
    pub holds_lease: Option<bool>,
    /// The state of the circuit.
    pub circuit: CircuitState,
    /// When the circuit opens, as [`CircuitBreaker`](crate::CircuitBreaker) is displayed.
    #[serde(default)]
    pub circuit_breaker: String,
    /// How many handlers run; `None` while it is not active.
    pub running: Option<usize>,
    /// How many events wait in the process for their next attempt; `None` while it is not active.
    pub resting: Option<usize>,
    /// How many events are in flight: they run, rest, or wait for a concurrency slot.
    pub in_flight: usize,
    /// The bytes in flight.
    pub in_flight_bytes: usize,
    /// The keys with the most waiting events, the most first; at most ten. Only of an ordered subscriber.
    pub hottest: Vec<HotKey>,
    /// How many events are handled at once, at most.
    pub concurrency: usize,
    /// How many attempts may begin per time, such as `100 per second`; `None` without a limit.
    pub rate: Option<String>,
    /// The maximum bytes in flight.
    pub max_in_flight_bytes: usize,
    /// How long an attempt may take, in milliseconds.
    pub timeout_ms: u64,
    /// When failures are retried, as [`Retry`](crate::Retry) is displayed.
    pub retry: String,
    /// Attempts that succeeded since the worker started, including duplicates.
    pub handled: u64,
    /// Attempts that failed since the worker started and whose event is retried.
    pub failed: u64,
    /// Events that it dead-lettered since the worker started.
    pub dead_lettered: u64,
    /// When the last delivery came.
    pub last_delivery_at: Option<DateTime<Utc>>,
    /// How it wants the consumers of the subscriber to be configured.
    pub wants: Vec<WantedConsumer>,
    /// The time of its clock when it answered.
    #[serde(default)]
    pub clock: Option<DateTime<Utc>>,
    /// The names that no handler of it takes, though their events arrive, with what becomes of them.
    #[serde(default)]
    pub unhandled: Option<String>,
    /// Whether all of its slots are taken.
    #[serde(default)]
    pub is_full: bool,
    /// The attempt that has run for the longest.
    #[serde(default)]
    pub oldest_attempt: Option<OldestAttempt>,
    /// How long ago an attempt has ended, in milliseconds; `None` when none has.
    #[serde(default)]
    pub last_ended_ms: Option<u64>,
    /// It is stuck when all slots are taken and none ends for this long, in milliseconds, as its code says.
    #[serde(default)]
    pub stuck_after_ms: Option<u64>,
    /// More about its circuit, while it is not closed.
    #[serde(default)]
    pub open_circuit: Option<OpenCircuit>,
    /// The keys that wait behind an event that fails, those with the most events first; at most ten. Only of an ordered
    /// subscriber.
    #[serde(default)]
    pub failing: Vec<FailingKey>,
    /// Its shadows, and the names of the events that each handles.
    #[serde(default)]
    pub shadows: BTreeMap<String, Vec<String>>,
}

/// What an instance is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Activity {
    /// It sets itself up, or fails to.
    Starting,
    /// It handles events.
    Active,
    /// Another instance is active, because the subscriber is ordered.
    Standby,
    /// It was told to stop, and finishes what is in flight.
    Draining,
    /// An activity that a later version of Tidings has added.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A key with events that wait behind its first one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HotKey {
    /// The key; shortened when it is very long.
    pub key: String,
    /// How many events wait.
    pub waiting: usize,
}

/// The consumer of one stream as an instance wants it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WantedConsumer {
    /// The stream.
    pub stream: String,
    /// The settings that Tidings owns, under the names of the JetStream API.
    pub settings: Map<String, Value>,
}

/// Whether a text can be the name of a durable: no other text may become a part of a subject.
pub(crate) fn can_be_durable(name: &str) -> bool {
    let is_refused = |c: char| c.is_whitespace() || c.is_control() || ".*>/\\".contains(c);
    !name.is_empty() && name.len() <= 255 && !name.contains(is_refused)
}

impl Activity {
    /// The word for the activity.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Active => "active",
            Self::Standby => "standby",
            Self::Draining => "draining",
            Self::Unknown => "unknown",
        }
    }
}

impl HotKey {
    /// Shortens the key: keys may be of any length, and an instance answers with one message.
    pub(crate) fn new(key: &str, waiting: usize) -> Self {
        let key = shortened(key);
        Self { key, waiting }
    }
}

/// A key as it is reported.
pub(crate) fn shortened(key: &str) -> String {
    const LONGEST: usize = 200;
    match key.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &key[..end]),
        None => key.to_owned(),
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
    fn an_activity_of_a_later_version_can_be_read() {
        let read = |text| serde_json::from_str::<Activity>(text).unwrap();
        assert_eq!(read("\"standby\""), Activity::Standby);
        assert_eq!(read("\"dreams\""), Activity::Unknown);
        let written = serde_json::to_string(&Activity::Standby).unwrap();
        assert_eq!(written, format!("\"{}\"", Activity::Standby.as_str()));
    }

    #[test]
    fn a_durable_name_is_one_token_of_a_subject() {
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
