//! Why a replay cannot be started or changed. Never decides it.

use chrono::{DateTime, Utc};

use crate::{
    nats::BusError,
    operations::subscribers::SubscribersError,
    replay::{ReplayState, tag::ReplayId},
};

/// Why a replay cannot be started, found or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// There is no such subscriber.
    #[error(
        "there is no subscriber {subscriber}: `tidings subscribers list` shows those there are"
    )]
    Unknown {
        /// The name.
        subscriber: String,
    },
    /// No instance answers, so no instance would run the replay. With force, the replay waits for one.
    #[error(
        "no instance of {subscriber} answers, and its instances run the replay: start one, or force the replay"
    )]
    NoInstance {
        /// The subscriber.
        subscriber: String,
    },
    /// The subscriber does not handle these events.
    #[error("{subscriber} does not handle {name}: it handles {}", .names.join(", "))]
    UnknownName {
        /// The subscriber.
        subscriber: String,
        /// The requested name.
        name: String,
        /// The names that it handles.
        names: Vec<String>,
    },
    /// The events of the subscriber are in other streams.
    #[error("{stream} has no events for {subscriber}: they are in {}", .streams.join(" and "))]
    UnknownStream {
        /// The subscriber.
        subscriber: String,
        /// The requested stream.
        stream: String,
        /// The streams that have them.
        streams: Vec<String>,
    },
    /// No instance has this shadow.
    #[error(
        "no instance of {subscriber} has a shadow {shadow}: add `.shadow({shadow:?}, ...)` to the subscriber; its \
         instances have {shadows:?}"
    )]
    UnknownShadow {
        /// The subscriber.
        subscriber: String,
        /// The requested shadow.
        shadow: String,
        /// The existing shadows.
        shadows: Vec<String>,
    },
    /// The subscriber is ordered, and its active instance lacks this shadow. With force, the replay waits for one that
    /// has it.
    #[error("{why}; or force the replay, and it waits")]
    ShadowElsewhere {
        /// Which instance that is.
        why: String,
    },
    /// A sequence is a position in one stream only, and the events are in several.
    #[error(
        "the events are in {}: a sequence is a position in one of them, so name a stream, or give a time",
        .streams.join(" and ")
    )]
    Ambiguous {
        /// The streams.
        streams: Vec<String>,
    },
    /// The stream has removed the beginning of the range. With force, the rest is replayed.
    #[error(
        "{stream} no longer has the whole range: its oldest message is {first}, stored at {}; begin there, or force \
         the replay", kept_since(.stored_at)
    )]
    TooOld {
        /// The stream.
        stream: String,
        /// Its oldest message.
        first: u64,
        /// When that message was stored.
        stored_at: Option<DateTime<Utc>>,
    },
    /// A stream of the subscriber is missing. With force, the other streams are replayed.
    #[error(
        "there is no stream {stream}: `tidings streams apply` recreates it, and `tidings outbox republish` \
         republishes what the outbox keeps"
    )]
    Gone {
        /// The stream.
        stream: String,
    },
    /// There is no event in the range.
    #[error(
        "there is nothing to replay: {} no events of these names in the range; from and to are the first and the \
         last event, or two times", holds(.streams)
    )]
    Nothing {
        /// The streams that were searched.
        streams: Vec<String>,
    },
    /// Another replay of the subscriber has not ended. With force, both run.
    #[error("the replay {id} of {subscriber} is {}: wait for it, cancel it, or force this one", .state.as_str())]
    Unfinished {
        /// The subscriber.
        subscriber: String,
        /// The other replay.
        id: ReplayId,
        /// Its state.
        state: ReplayState,
    },
    /// No stream takes the events of a shadow.
    #[error("no stream takes {name}: declare it and run `tidings streams apply`")]
    NoStream {
        /// The event's name.
        name: String,
    },
    /// There is no such replay.
    #[error("there is no replay {id}: `tidings replay list` shows those there are")]
    NoReplay {
        /// The id.
        id: ReplayId,
    },
    /// The replay has ended.
    #[error("the replay {id} is {}: start another one", .state.as_str())]
    Ended {
        /// The id.
        id: ReplayId,
        /// Its state.
        state: ReplayState,
    },
    /// NATS does not answer, or refuses the request.
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl From<SubscribersError> for ReplayError {
    fn from(error: SubscribersError) -> Self {
        match error {
            SubscribersError::Unknown { name } => Self::Unknown { subscriber: name },
            SubscribersError::NoInstance { name } => Self::NoInstance { subscriber: name },
            SubscribersError::Partly { source, .. } | SubscribersError::Bus(source) => {
                Self::Bus(source)
            }
        }
    }
}

fn kept_since(stored_at: &Option<DateTime<Utc>>) -> String {
    let text = |at: &DateTime<Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    stored_at.as_ref().map_or("an unknown time".into(), text)
}

fn holds(streams: &[String]) -> String {
    match streams {
        [one] => format!("{one} holds"),
        many => format!("{} hold", many.join(" and ")),
    }
}
