//! What an instance reports of work that does not go on: slots that are taken for long, an open circuit, and keys that
//! wait behind an event that fails. Plain values.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// From when on a key is reported that waits behind an event that fails.
const LONG: TimeDelta = TimeDelta::seconds(5);
/// How many such keys are named.
const MOST: usize = 3;

/// The attempt of an instance that has run for the longest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OldestAttempt {
    /// The name of its event; of a batch, of the first one.
    pub name: String,
    /// The id of that event.
    pub event: String,
    /// For how long it has run, in milliseconds.
    pub for_ms: u64,
}

/// The circuit of an instance that is not closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OpenCircuit {
    /// When it opened.
    pub since: DateTime<Utc>,
    /// The error of the last attempt that opened it, or kept it open.
    pub error: Option<String>,
    /// When the next probe may begin; `None` while one runs, or when it may begin now.
    pub next_probe_at: Option<DateTime<Utc>>,
}

/// A key whose first event fails, and is attempted again in the process; only of an ordered subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FailingKey {
    /// The key; shortened when it is very long.
    pub key: String,
    /// The name of the event.
    pub name: String,
    /// The id of the event.
    pub event: String,
    /// How many attempts have failed.
    pub attempts: u32,
    /// When the first one failed.
    pub since: DateTime<Utc>,
    /// When the next one is due.
    pub next_at: DateTime<Utc>,
    /// How many events of the key wait behind it in the process.
    pub waiting: usize,
}

impl FailingKey {
    /// Whether its first attempt has failed long ago, by the clock of its process.
    pub(crate) fn has_failed_for_long(&self, clock: DateTime<Utc>) -> bool {
        clock - self.since >= LONG
    }

    /// The cause and the cure for people; `None` without a key.
    pub(crate) fn told(keys: &[&Self]) -> Option<(String, String)> {
        let first = keys.first()?;
        let named = keys.iter().take(MOST).map(|key| {
            let next_at = key.next_at.to_rfc3339_opts(SecondsFormat::Secs, true);
            format!(
                "{} ({} behind {} {}, of which {} attempts failed; the next at {next_at})",
                key.key, key.waiting, key.name, key.event, key.attempts
            )
        });
        let named: Vec<String> = named.collect();
        let more = match keys.len().saturating_sub(MOST) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let named = named.join(", ");
        Some((
            format!("keys wait behind an event that fails: {named}{more}"),
            format!(
                "see why it fails: tidings trace {}, and the log of the worker; correct what the handler needs, or have \
                 it reject the event",
                first.event
            ),
        ))
    }
}
