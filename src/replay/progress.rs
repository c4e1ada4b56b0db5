//! The progress of a replay, as the instance that works on it reports. Plain values.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The progress of a replay. When an instance died before it could write its progress, a few more events have been
/// handled than are counted here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ReplayProgress {
    /// When this was written.
    pub at: DateTime<Utc>,
    /// When an instance first worked on it.
    pub began_at: Option<DateTime<Utc>>,
    /// Events that its filters leave out.
    pub filtered: u64,
    /// Events whose handler skips replays.
    pub skipped: u64,
    /// Events that were handled.
    pub handled: u64,
    /// Events that had already been handled in this replay, according to the inbox.
    pub duplicates: u64,
    /// Events that failed and are among the retries, as part of this replay. Their outcome there is not reported here.
    pub retried: u64,
    /// Events that were dead-lettered.
    pub dead_lettered: u64,
    /// Events that handlers published and that the replay suppressed.
    pub suppressed: u64,
    /// Events of the range that the stream removed before they were delivered, as counted when the replay was done.
    pub gone: u64,
    /// Events that ended without being counted, as found when the replay was done: an instance died, or lost its lease,
    /// before it could write their outcome. Each of them belongs to one of the kinds above.
    pub uncounted: u64,
    /// The progress in each stream.
    pub streams: Vec<StreamProgress>,
    /// The result without calling a handler; only of a rehearsal.
    pub rehearsal: Option<Rehearsal>,
    /// Why it does not continue, according to the instance that works on it.
    pub issue: Option<ReplayIssue>,
}

/// Why a replay that should run does not continue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReplayIssue {
    /// The cause.
    pub why: String,
    /// Since when it does not continue.
    pub since: DateTime<Utc>,
}

/// The progress of a replay in one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StreamProgress {
    /// The stream.
    pub stream: String,
    /// Everything up to this sequence has ended.
    pub floor: u64,
}

/// What a replay would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Rehearsal {
    /// The events by name and version, in that order.
    pub events: Vec<RehearsedEvents>,
    /// The first ten events for which no handler would be called.
    pub errors: Vec<UndecodableEvent>,
}

/// The events of one name and version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RehearsedEvents {
    /// The name; the subject, for a message that names no event.
    pub name: String,
    /// The version.
    pub version: u32,
    /// How many there are.
    pub events: u64,
    /// How many would be passed to a handler.
    pub would_call: u64,
    /// How many their handler would skip, because it skips replays.
    pub would_skip: u64,
    /// How many would be dead-lettered: they do not decode, or no handler takes their version.
    pub undecodable: u64,
}

/// An event that would be dead-lettered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UndecodableEvent {
    /// The stream.
    pub stream: String,
    /// The sequence.
    pub sequence: u64,
    /// The name; the subject, for a message that names no event.
    pub name: String,
    /// The version.
    pub version: u32,
    /// The error.
    pub error: String,
}

impl ReplayProgress {
    /// How many events of the range have ended.
    #[must_use]
    pub fn completed(&self) -> u64 {
        let rehearsed = self.rehearsal.iter().flat_map(|it| &it.events);
        let rehearsed = rehearsed.map(|events| events.events);
        let ended = [
            self.handled,
            self.duplicates,
            self.retried,
            self.dead_lettered,
            self.skipped,
            self.filtered,
        ];
        let all = ended.into_iter().chain(rehearsed);
        all.fold(0, u64::saturating_add)
    }

    /// The sequence up to which everything in this stream has ended.
    #[must_use]
    pub fn floor(&self, stream: &str) -> u64 {
        let found = self.streams.iter().find(|one| one.stream == stream);
        found.map_or(0, |one| one.floor)
    }
}
