//! The reasons why NATS did not do what was requested. Never decides what follows.

use std::time::Duration;

use super::{
    ApiError, CONNECTION_LOST,
    protocol::{codes, permission::permission_for},
};

/// The reason why a request to the server failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// No server answers: JetStream is off, or the stream has no leader at the moment.
    #[error("no server answers on {subject}: JetStream is off, or the stream has no leader")]
    NoResponders {
        /// The subject of the request.
        subject: String,
    },
    /// No stream takes the message: its stream was deleted, or never created.
    #[error("no stream takes {subject}: {cure}")]
    NoStream {
        /// The subject of the message.
        subject: String,
        /// Which stream is missing, and what creates it.
        cure: String,
    },
    /// The user of the connection lacks a permission.
    #[error("NATS does not let this user {action} {subject}: allow it to {action} {permission}")]
    Denied {
        /// `publish to` or `subscribe to`.
        action: &'static str,
        /// The subject that was denied.
        subject: String,
        /// The subject that a permission should name.
        permission: String,
    },
    /// No answer within the time.
    #[error(
        "no answer on {subject} within {after:?}: the connection is down, the server is stuck, or the stream has no leader"
    )]
    Timeout {
        /// The subject of the request.
        subject: String,
        /// How long the caller waited for the answer.
        after: Duration,
    },
    /// The server refused the request; [`BusError::kind`] says why.
    #[error("NATS refused {subject}: {description} ({code})")]
    Refused {
        /// The subject of the request.
        subject: String,
        /// The number of the server's error, for people and logs: compare [`BusError::kind`] instead.
        code: u64,
        /// The server's description of the error.
        description: String,
    },
    /// A setting in NATS prevents the work.
    #[error("{issue}")]
    Settings {
        /// What is wrong, with its cure.
        issue: String,
    },
    /// The server is too old for the request.
    #[error("{subject} needs nats-server {needs}, and this one is {version}")]
    TooOld {
        /// The subject of the request.
        subject: String,
        /// The required version.
        needs: &'static str,
        /// The version of the server.
        version: String,
    },
    /// A stream cannot be as it is declared. Nothing was changed.
    #[error("stream {stream} cannot be set up as declared: {reason}")]
    Declaration {
        /// The stream's name.
        stream: String,
        /// What conflicts with the declaration, and what to do.
        reason: String,
    },
    /// The request could not be sent, or its answer could not be read.
    #[error("the request on {subject} failed: {reason}")]
    Broken {
        /// The subject of the request.
        subject: String,
        /// What happened.
        reason: String,
    },
}

/// Why a request failed, as far as a caller can act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BusErrorKind {
    /// There is no such stream, or no stream takes the message.
    StreamNotFound,
    /// The stream has no such consumer.
    ConsumerNotFound,
    /// The stream has no such message.
    MessageNotFound,
    /// JetStream does not answer now: it has no leader, or too few servers are up. The same request may succeed later.
    Unavailable,
    /// JetStream is off, on the server or for the account.
    NotEnabled,
    /// The user of the connection lacks a permission.
    Denied,
    /// No answer came within the time. What was requested may have been done.
    Timeout,
    /// The connection was lost, or the answer could not be read. What was requested may have been done.
    Broken,
    /// Another client has written since the sequence that the request expects.
    WrongLastSequence,
    /// The server or the account has no storage or memory left for JetStream.
    StorageFull,
    /// The server or the account may have no more streams or consumers.
    LimitReached,
    /// A stream or a consumer with this name exists, and is another one.
    NameInUse,
    /// The subjects of the stream overlap with those of another stream.
    SubjectsOverlap,
    /// The account wants `max_bytes` set for each stream.
    MaxBytesRequired,
    /// The consumer cannot be reset to this sequence.
    InvalidReset,
    /// A setting or a declaration prevents it, as the text says.
    Settings,
    /// The server is too old for the request.
    TooOld,
    /// Another refusal, as the text says.
    Other,
}

impl BusError {
    /// Why the request failed.
    #[must_use]
    pub fn kind(&self) -> BusErrorKind {
        match self {
            Self::NoResponders { .. } => BusErrorKind::Unavailable,
            Self::NoStream { .. } => BusErrorKind::StreamNotFound,
            Self::Denied { .. } => BusErrorKind::Denied,
            Self::Timeout { .. } => BusErrorKind::Timeout,
            Self::Refused { code, .. } => codes::kind_of(*code),
            Self::Settings { .. } | Self::Declaration { .. } => BusErrorKind::Settings,
            Self::TooOld { .. } => BusErrorKind::TooOld,
            Self::Broken { .. } => BusErrorKind::Broken,
        }
    }

    pub(super) fn refused(subject: impl Into<String>, error: ApiError) -> Self {
        Self::Refused {
            subject: subject.into(),
            code: error.err_code,
            description: error.description,
        }
    }

    /// Whether what was asked for does not exist: the consumer or its stream.
    pub(super) fn is_gone(&self) -> bool {
        self.has_code(codes::CONSUMER_NOT_FOUND) || self.has_code(codes::STREAM_NOT_FOUND)
    }

    /// Whether the server has refused with this code.
    pub(super) fn has_code(&self, expected: u64) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == expected)
    }

    pub(super) fn lost(subject: &str) -> Self {
        Self::Broken {
            subject: subject.to_owned(),
            reason: CONNECTION_LOST.to_owned(),
        }
    }

    /// Whether the connection was lost before the answer came, possibly because of the answer.
    pub(super) fn is_loss(&self) -> bool {
        matches!(self, Self::Broken { reason, .. } if reason == CONNECTION_LOST)
    }

    pub(super) fn denied(subject: &str) -> Self {
        Self::Denied {
            action: "publish to",
            subject: subject.to_owned(),
            permission: permission_for(subject),
        }
    }
}
