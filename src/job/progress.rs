//! How far a replay has come, as the replica that works at it tells. Plain values.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// How far a replay has come. A few events more may have been handled than it says, when the replica that worked
/// died before it could say so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ReplayProgress {
    /// When this was so.
    pub at: DateTime<Utc>,
    /// When a replica first worked at it.
    pub began_at: Option<DateTime<Utc>>,
    /// Events that its filters leave out.
    pub filtered: u64,
    /// Events whose handler does not want replays.
    pub skipped: u64,
    /// Events that were handled.
    pub handled: u64,
    /// Events that had been handled before in this replay, says the inbox.
    pub duplicates: u64,
    /// Events that failed and are among the retries, as part of this replay. What becomes of them there is not
    /// told here.
    pub retried: u64,
    /// Events that were given up, and are dead letters.
    pub dead_lettered: u64,
    /// Events that handlers wanted to publish, and that were not published.
    pub suppressed: u64,
    /// Events of the range that their stream had removed before they came, as far as was counted when it was done.
    pub gone: u64,
    /// Events that have ended without being counted, as far as was found when it was done: a replica died, or lost its
    /// lease, before it could say what became of them. They are among those of the kinds above.
    pub uncounted: u64,
    /// How far it is, stream by stream.
    pub streams: Vec<StreamProgress>,
    /// What was found without calling a handler; only of a rehearsal.
    pub rehearsal: Option<Rehearsal>,
    /// Why it does not go on, as the replica that works at it knows.
    pub trouble: Option<ReplayTrouble>,
}

/// Why a replay that should run does not go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReplayTrouble {
    /// The cause.
    pub why: String,
    /// Since when it does not.
    pub since: DateTime<Utc>,
}

/// How far a replay has come in one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StreamProgress {
    /// The stream.
    pub stream: String,
    /// Everything up to this sequence is over.
    pub floor: u64,
}

/// What a replay would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Rehearsal {
    /// By name and version, in their order.
    pub events: Vec<RehearsedEvents>,
    /// The first ten events for which no handler would be called.
    pub errors: Vec<UndecodableEvent>,
}

/// The events of one name and version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RehearsedEvents {
    /// The name; a subject, of a message that names no event.
    pub name: String,
    /// The version.
    pub version: u32,
    /// How many there are.
    pub events: u64,
    /// How many a handler would be called with.
    pub would_call: u64,
    /// How many their handler would skip, because it does not want replays.
    pub would_skip: u64,
    /// How many would be dead letters: they do not decode, or no handler takes their version.
    pub undecodable: u64,
}

/// An event that would be a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct UndecodableEvent {
    /// The stream.
    pub stream: String,
    /// The sequence.
    pub sequence: u64,
    /// The name; a subject, of a message that names no event.
    pub name: String,
    /// The version.
    pub version: u32,
    /// Why.
    pub error: String,
}

impl ReplayProgress {
    /// How many events of the range are over.
    #[must_use]
    pub fn over(&self) -> u64 {
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

    /// Everything in this stream up to this sequence is over.
    #[must_use]
    pub fn floor(&self, stream: &str) -> u64 {
        let found = self.streams.iter().find(|one| one.stream == stream);
        found.map_or(0, |one| one.floor)
    }
}
