//! A replay as it is written down: what was asked for, which part of which streams that is, and whether it runs.
//! Plain values; nothing here reads or writes them.

mod progress;
mod request;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::replaying::ReplayId;
pub use progress::{
    Rehearsal, RehearsedEvents, ReplayProgress, ReplayTrouble, StreamProgress, UndecodableEvent,
};
pub use request::{ReplayPoint, ReplayRequest};

/// A replay of a subscriber.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Replay {
    /// Its name.
    pub id: ReplayId,
    /// Whose.
    pub subscriber: String,
    /// What was asked for.
    pub request: ReplayRequest,
    /// What that is, in each stream that has events for it.
    pub ranges: Vec<ReplayRange>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// Whether it runs.
    pub state: ReplayState,
    /// Why it is in that state, when it is not because somebody wanted it.
    pub reason: Option<String>,
    /// Since when.
    pub state_at: DateTime<Utc>,
    /// Which of the consumers it has that its subscriber has for replays: 1, unless others were not over when it was
    /// begun.
    #[serde(default = "first_slot")]
    pub slot: u32,
}

const fn first_slot() -> u32 {
    1
}

/// A part of a stream, both ends included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReplayRange {
    /// The stream.
    pub stream: String,
    /// When the stream was created, in the server's words: another one of its name has other events.
    pub incarnation: String,
    /// The names of the events.
    pub names: Vec<String>,
    /// The first sequence.
    pub first: u64,
    /// The last sequence.
    pub last: u64,
    /// When its message was stored, if it was there: in an older copy of the stream the sequence is another message's.
    #[serde(default)]
    pub last_at: Option<DateTime<Utc>>,
    /// How many events of these names it held when the replay was asked for.
    pub events: u64,
}

/// Whether a replay runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ReplayState {
    /// A replica works at it, or will.
    Running,
    /// It stands still until it is resumed.
    Paused,
    /// Somebody has ended it.
    Cancelled,
    /// Everything in its range was handled, or is among the retries or the dead letters.
    Done,
    /// It cannot go on.
    Failed,
    /// What a later version of Tidings does.
    #[serde(other)]
    Unknown,
}

impl Replay {
    /// How many events its range held when it was asked for, those that its filters leave out included.
    #[must_use]
    pub fn events(&self) -> u64 {
        let events = self.ranges.iter().map(|range| range.events);
        events.fold(0, u64::saturating_add)
    }

    /// The name of its consumer in each of its streams: `replay-<subscriber>`, with its slot behind it from the second
    /// one on. It names the subscriber, and not the replay, so that the permissions of a user can name it.
    #[must_use]
    pub fn consumer(&self) -> String {
        match self.slot {
            0 | 1 => format!("replay-{}", self.subscriber),
            slot => format!("replay-{}-{slot}", self.subscriber),
        }
    }

    /// The name of the consumer that counts what is left of a range, for a moment.
    pub(crate) fn counter(&self) -> String {
        format!("{}-count", self.consumer())
    }
}

/// Where a replay is kept; `*` names any.
pub(crate) fn entry(subscriber: &str, id: &str) -> String {
    format!("replay.{subscriber}.{id}")
}

/// Where the progress of a replay is kept.
pub(crate) fn progress_entry(subscriber: &str, id: ReplayId) -> String {
    format!("replay-progress.{subscriber}.{id}")
}

impl ReplayState {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cancelled => "cancelled",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }

    /// Whether it will never be in another one.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Cancelled | Self::Done | Self::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_of_a_later_version_can_be_read() {
        let read = |text: &str| serde_json::from_str::<ReplayState>(text).unwrap();
        assert_eq!(read("\"dreaming\""), ReplayState::Unknown);
        for state in [ReplayState::Running, ReplayState::Failed] {
            assert_eq!(read(&format!("\"{}\"", state.as_str())), state);
        }
    }

    #[test]
    fn what_was_asked_for_is_read_as_it_was_written() {
        let request = ReplayRequest::new(ReplayPoint::Sequence(3))
            .to(ReplayPoint::Time(DateTime::UNIX_EPOCH))
            .names(["user.created"])
            .key("ada")
            .rate(crate::rate::Rate::per_second(500))
            .shadow("v2")
            .rehearse();
        let written = serde_json::to_string(&request).unwrap();
        assert_eq!(
            serde_json::from_str::<ReplayRequest>(&written).unwrap(),
            request
        );
    }
}
