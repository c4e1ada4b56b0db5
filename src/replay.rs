//! A replay as it is stored: the request, the ranges of the streams, and its state. Plain values; nothing here reads or
//! writes them.

pub(crate) mod tag;

mod progress;
mod request;

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use self::tag::ReplayId;
pub use progress::{
    Rehearsal, RehearsedEvents, ReplayIssue, ReplayProgress, StreamProgress, UndecodableEvent,
};
pub use request::ReplayRequest;

/// A replay of a subscriber.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Replay {
    /// Its id.
    pub id: ReplayId,
    /// The subscriber that is replayed.
    pub subscriber: String,
    /// The request.
    pub request: ReplayRequest,
    /// The range in each stream that has events for it.
    pub ranges: Vec<ReplayRange>,
    /// When it was requested.
    pub created_at: DateTime<Utc>,
    /// Its state.
    pub state: ReplayState,
    /// The reason for the state, when it was not set by an operator.
    pub reason: Option<String>,
    /// When it entered the state.
    pub state_at: DateTime<Utc>,
    /// Which of the subscriber's replay consumers it uses: 1, unless other replays were unfinished when it was started.
    #[serde(default = "first_slot")]
    pub slot: u32,
}

const fn first_slot() -> u32 {
    1
}

/// A range of a stream, both ends included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReplayRange {
    /// The stream.
    pub stream: String,
    /// When the stream was created, as the server writes it: a stream recreated under this name has other events.
    pub incarnation: String,
    /// The names of the events.
    pub names: Vec<String>,
    /// The first sequence.
    pub first: u64,
    /// The last sequence.
    pub last: u64,
    /// When the last message was stored, if it existed: in an older copy of the stream another message has this
    /// sequence.
    #[serde(default)]
    pub last_at: Option<DateTime<Utc>>,
    /// How many events of these names the range held when the replay was requested.
    pub events: u64,
}

/// The state of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ReplayState {
    /// An instance works on it, or will.
    Running,
    /// It is suspended until it is resumed.
    Paused,
    /// An operator has ended it.
    Cancelled,
    /// Everything in its range was handled, or is among the retries or the dead letters.
    Done,
    /// It cannot continue.
    Failed,
    /// A state that a later version of Tidings has added.
    #[serde(other)]
    Unknown,
}

impl Replay {
    /// How many events its ranges held when it was requested, including those that its filters leave out.
    #[must_use]
    pub fn events(&self) -> u64 {
        let events = self.ranges.iter().map(|range| range.events);
        events.fold(0, u64::saturating_add)
    }
}

impl ReplayState {
    /// The word for the state.
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

    /// Whether the state never changes again.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Cancelled | Self::Done | Self::Failed)
    }
}

impl fmt::Display for ReplayState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::start::StartFrom;

    #[test]
    fn a_state_of_a_later_version_can_be_read() {
        let read = |text: &str| serde_json::from_str::<ReplayState>(text).unwrap();
        assert_eq!(read("\"dreaming\""), ReplayState::Unknown);
        for state in [ReplayState::Running, ReplayState::Failed] {
            assert_eq!(read(&format!("\"{}\"", state.as_str())), state);
        }
    }

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let request = ReplayRequest::new(StartFrom::Sequence(3))
            .to(StartFrom::Time(DateTime::UNIX_EPOCH))
            .names(["user.created"])
            .key("ada")
            .rate_limit(crate::policy::rate::Rate::per_second(500))
            .shadow("v2")
            .rehearse();
        let written = serde_json::to_string(&request).unwrap();
        assert_eq!(
            serde_json::from_str::<ReplayRequest>(&written).unwrap(),
            request
        );
    }
}
