//! The reasons why NATS did not do what was requested. Never decides what follows.

use std::time::Duration;

use super::{CONNECTION_LOST, connection::denied};

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
    /// The server answered with an error.
    #[error("NATS refused {subject}: {description} ({code})")]
    Api {
        /// The subject of the request.
        subject: String,
        /// The server's error code, such as 10059.
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

impl BusError {
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
            permission: denied::permission_for(subject),
        }
    }
}
