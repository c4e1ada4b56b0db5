//! The request for a replay. A plain value.

use serde::{Deserialize, Serialize};

use crate::policy::{rate::Rate, start::StartFrom};

/// The request for a replay: its range, its events and its options.
///
/// ```
/// use tidings::{Rate, StartFrom, replays::ReplayRequest};
///
/// let two_hours_ago = chrono::Utc::now() - chrono::TimeDelta::hours(2);
/// let request = ReplayRequest::new(StartFrom::Time(two_hours_ago))
///     .names(["user.created"])
///     .key("ada")
///     .rate_limit(Rate::per_second(500));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReplayRequest {
    /// Where it begins, inclusive. A sequence is accepted only when all events are in one stream.
    pub from: StartFrom,
    /// Where it ends: a sequence is inclusive, a time is not. `None` and [`StartFrom::New`] are the newest event at the
    /// time of the request.
    pub to: Option<StartFrom>,
    /// The names of the events; empty for all names that the subscriber handles.
    pub names: Vec<String>,
    /// Only events of this stream.
    #[serde(default)]
    pub stream: Option<String>,
    /// Only events with this key.
    pub key: Option<String>,
    /// Only events of this conversation.
    pub correlation: Option<String>,
    /// The rate; when `None`, as fast as the live events leave room for.
    pub rate: Option<Rate>,
    /// The shadow whose handlers are called instead of the live ones.
    pub shadow: Option<String>,
    /// Whether events that the handlers publish are published; otherwise they are only counted.
    pub follow_ups: bool,
    /// Whether events are only read and decoded, without calling a handler.
    pub rehearse: bool,
    /// Whether it starts in spite of the conditions that the method of this name lists.
    pub force: bool,
}

impl ReplayRequest {
    /// Everything from here to the newest event at the time of the request.
    #[must_use]
    pub fn new(from: StartFrom) -> Self {
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

    /// Sets where it ends: a sequence is inclusive, a time is not.
    #[must_use]
    pub fn to(mut self, to: StartFrom) -> Self {
        self.to = Some(to);
        self
    }

    /// Limits it to events of these names.
    #[must_use]
    pub fn names<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.names = names.into_iter().map(Into::into).collect();
        self
    }

    /// Limits it to events of this stream.
    #[must_use]
    pub fn stream(mut self, stream: impl Into<String>) -> Self {
        self.stream = Some(stream.into());
        self
    }

    /// Limits it to events with this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Limits it to events of this conversation.
    #[must_use]
    pub fn correlation(mut self, correlation: impl Into<String>) -> Self {
        self.correlation = Some(correlation.into());
        self
    }

    /// Limits how many events begin per time.
    #[must_use]
    pub fn rate_limit(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }

    /// Calls the handlers of this shadow instead of the live ones.
    #[must_use]
    pub fn shadow(mut self, shadow: impl Into<String>) -> Self {
        self.shadow = Some(shadow.into());
        self
    }

    /// Publishes the events that handlers publish; by default they are only counted.
    #[must_use]
    pub fn follow_ups(mut self) -> Self {
        self.follow_ups = true;
        self
    }

    /// Reads, routes and decodes everything without calling a handler.
    #[must_use]
    pub fn rehearse(mut self) -> Self {
        self.rehearse = true;
        self
    }

    /// Starts the replay even when another replay of the subscriber is unfinished, when the stream no longer holds the
    /// whole requested range, when one of several streams is missing, or when no instance of the subscriber answers.
    #[must_use]
    pub fn force(mut self) -> Self {
        self.force = true;
        self
    }
}
