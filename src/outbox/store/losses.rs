//! The losses of streams as the database stores them, and the statements about them. Never decides what a loss is.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tidings_contract::EventId;

use super::{Names, Position};
use crate::policy::issue_kind::IssueKind;

/// The state of a stream, compared with what the relay wrote to it. Displayed as a predicate of the stream: `is gone`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
#[non_exhaustive]
pub enum StreamState {
    /// It is the same stream, and it ends where the relay last knew its end, or later.
    Intact,
    /// The stream does not exist.
    Missing,
    /// The stream was recreated.
    Recreated {
        /// When the stream that the relay knows was created, as the server writes it.
        was: String,
        /// When the present stream was created.
        now: String,
    },
    /// The stream ends before what the server has confirmed: it was restored from an older copy, or has lost its end.
    Truncated {
        /// The last sequence that was confirmed.
        known: u64,
        /// The last sequence of the stream.
        now: u64,
    },
    /// Another message is stored where the last event was confirmed: the stream was restored from an older copy, or has
    /// lost its end, and other publishers have written since.
    Diverged {
        /// The sequence of that message.
        sequence: u64,
        /// The event that was confirmed.
        event: EventId,
    },
}

/// A stream that has lost confirmed events, or may have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Loss {
    /// The stream.
    pub stream: String,
    /// When it was noticed.
    pub since: DateTime<Utc>,
    /// The state of the stream.
    pub state: StreamState,
}

/// A loss as the database stores it, by the stream's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::outbox) struct StoredLoss {
    pub(in crate::outbox) since: DateTime<Utc>,
    pub(in crate::outbox) state: StreamState,
    /// The stream that the relay wrote to, and how far.
    pub(in crate::outbox) was: Position,
    /// When and how the loss was settled.
    pub(in crate::outbox) settled: Option<(DateTime<Utc>, Settled)>,
}

/// How a loss was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Settled {
    /// The events that the outbox still kept were republished.
    Repaired,
    /// An operator has accepted the loss.
    Accepted,
}

/// Losses by stream name.
pub(in crate::outbox) type Losses = BTreeMap<String, StoredLoss>;

/// The statements about losses.
pub trait LossStatements: sqlx::Database {
    /// Returns all stored losses, as JSON.
    fn losses(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<String, sqlx::Error>> + Send;

    /// Stores these losses, given as JSON, and leaves those of other streams unchanged.
    fn store_losses(
        connection: &mut Self::Connection,
        names: &Names,
        losses: &str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}

impl std::fmt::Display for StreamState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Intact => f.write_str("is the one that the relay knows"),
            Self::Missing => f.write_str("is gone"),
            Self::Recreated { was, now } => {
                write!(f, "was recreated: created at {now}, not at {was}")
            }
            Self::Truncated { known, now } => write!(
                f,
                "ends at {now}, and {known} was confirmed: an older copy was restored"
            ),
            Self::Diverged { sequence, event } => write!(
                f,
                "has another message at {sequence} than {event}, which was confirmed there: an older copy was restored"
            ),
        }
    }
}

impl StreamState {
    /// The kind of the issue, when it is a loss.
    pub(crate) fn kind(&self) -> IssueKind {
        match self {
            Self::Intact => IssueKind::Unknown,
            Self::Missing => IssueKind::StreamGone,
            Self::Recreated { .. } => IssueKind::StreamRecreated,
            Self::Truncated { .. } => IssueKind::StreamTruncated,
            Self::Diverged { .. } => IssueKind::StreamDiverged,
        }
    }
}

impl StoredLoss {
    pub(in crate::outbox) fn new(state: StreamState, was: Position) -> Self {
        Self {
            since: Utc::now(),
            state,
            was,
            settled: None,
        }
    }

    pub(in crate::outbox) fn is_open(&self) -> bool {
        self.settled.is_none()
    }

    pub(in crate::outbox) fn since(&self) -> DateTime<Utc> {
        self.since
    }

    pub(in crate::outbox) fn state(&self) -> &StreamState {
        &self.state
    }

    /// Whether both describe one loss: of the same stream, with the same end.
    pub(in crate::outbox) fn is(&self, other: &Self) -> bool {
        let is_of_one_kind = match (&self.state, &other.state) {
            // The stream may have grown since.
            (StreamState::Truncated { .. }, StreamState::Truncated { .. }) => true,
            (one, other) => one == other,
        };
        is_of_one_kind
            && self.was.incarnation == other.was.incarnation
            && self.was.known() == other.was.known()
            && self.was.last == other.was.last
    }

    pub(in crate::outbox) fn shown(&self, stream: &str) -> Loss {
        Loss {
            stream: stream.to_owned(),
            since: self.since,
            state: self.state.clone(),
        }
    }
}

pub(in crate::outbox) fn open(losses: &Losses) -> Vec<Loss> {
    let open = losses.iter().filter(|(_, loss)| loss.is_open());
    open.map(|(stream, loss)| loss.shown(stream)).collect()
}

pub(in crate::outbox) fn losses_from(text: &str) -> Result<Losses, sqlx::Error> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(error.into()))
}
