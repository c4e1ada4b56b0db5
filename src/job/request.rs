//! What is asked of a replay. A plain value.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::rate::Rate;

/// Where a replay begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ReplayPoint {
    /// The oldest event that is kept.
    Beginning,
    /// This sequence of the stream, itself included at both ends; only when all events are in one stream.
    Sequence(u64),
    /// This time, by the clock of the server that stored the events; at the end, events before it.
    Time(DateTime<Utc>),
}

/// What is asked of a replay: from where to where, which events, and how.
///
/// ```
/// use tidings::{Rate, ReplayPoint, ReplayRequest};
///
/// let two_hours_ago = chrono::Utc::now() - chrono::TimeDelta::hours(2);
/// let request = ReplayRequest::new(ReplayPoint::Time(two_hours_ago))
///     .names(["user.created"])
///     .key("ada")
///     .rate(Rate::per_second(500));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReplayRequest {
    /// Where it begins.
    pub from: ReplayPoint,
    /// Where it ends; `None` for the newest event there is when it is asked for.
    pub to: Option<ReplayPoint>,
    /// The names of the events; all that the subscriber handles when there are none.
    pub names: Vec<String>,
    /// Only events of this stream.
    #[serde(default)]
    pub stream: Option<String>,
    /// Only events with this key.
    pub key: Option<String>,
    /// Only events of this conversation.
    pub correlation: Option<String>,
    /// How fast; as fast as there is place beside the live events when `None`.
    pub rate: Option<Rate>,
    /// The handlers of this name are called instead of the others.
    pub shadow: Option<String>,
    /// Whether what the handlers publish is published; else it is only counted.
    pub follow_ups: bool,
    /// Whether everything is read and decoded, and no handler is called.
    pub rehearse: bool,
    /// Whether it is begun though something speaks against it.
    pub force: bool,
}

impl ReplayRequest {
    /// Everything from here on to the newest event there is.
    #[must_use]
    pub fn new(from: ReplayPoint) -> Self {
        Self {
            from,
            to: None,
            names: Vec::new(),
            stream: None,
            key: None,
            correlation: None,
            rate: None,
            shadow: None,
            follow_ups: false,
            rehearse: false,
            force: false,
        }
    }

    /// Where it ends.
    #[must_use]
    pub fn to(mut self, to: ReplayPoint) -> Self {
        self.to = Some(to);
        self
    }

    /// Only events of these names.
    #[must_use]
    pub fn names<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.names = names.into_iter().map(Into::into).collect();
        self
    }

    /// Only events of this stream.
    #[must_use]
    pub fn stream(mut self, stream: impl Into<String>) -> Self {
        self.stream = Some(stream.into());
        self
    }

    /// Only events with this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Only events of this conversation.
    #[must_use]
    pub fn correlation(mut self, correlation: impl Into<String>) -> Self {
        self.correlation = Some(correlation.into());
        self
    }

    /// How many of its events begin in a time.
    #[must_use]
    pub fn rate(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }

    /// Calls the handlers of this name, and no others.
    #[must_use]
    pub fn shadow(mut self, shadow: impl Into<String>) -> Self {
        self.shadow = Some(shadow.into());
        self
    }

    /// Publishes what the handlers publish; by default that is only counted.
    #[must_use]
    pub fn follow_ups(mut self) -> Self {
        self.follow_ups = true;
        self
    }

    /// Reads, routes and decodes everything, and calls nothing.
    #[must_use]
    pub fn rehearse(mut self) -> Self {
        self.rehearse = true;
        self
    }

    /// Begins also when another replay of the subscriber is not over, when the stream no longer keeps all that is
    /// asked for, when one of several streams is gone, or when no replica of the subscriber answers.
    #[must_use]
    pub fn force(mut self) -> Self {
        self.force = true;
        self
    }
}
