//! Why a stream has not taken a message, with the kind of the issue and the cure. Never decides what follows.

use std::{fmt, time::Duration};

use crate::{
    nats::{
        BusErrorKind,
        protocol::{
            codes::{self, publish},
            cures::{cure_of_code, issue_kind_of_code},
        },
    },
    policy::issue_kind::IssueKind,
};

/// The server has not stored the message, or has not confirmed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The batch contains an id that the stream already has, or one id twice.
    Duplicate,
    /// Another event has this id: which one, and where.
    DuplicateId(String),
    /// Another stream takes the subject now. Nothing was stored.
    Moved,
    /// The server will never accept it as it is.
    Permanent { code: u64, reason: String },
    /// Nothing was stored: for now the stream accepts nothing, or nothing of this subject.
    Closed(Cause),
    /// Nothing was stored: the server's limit of messages in a batch is lower.
    TooMany { most: usize },
    /// Nothing was stored: the server has not received every member of the batch.
    Incomplete,
    /// The server may accept it later. Whether it was stored is unknown.
    Transient { code: u64, reason: String },
    /// No answer came. Whether it was stored is unknown.
    NoAnswer { after: Duration },
    /// No answer comes, because the stream does not confirm. It is stored, unless something else is wrong.
    NoAck { stream: String },
}

impl Refusal {
    /// Whether the events may be stored all the same.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(
            self,
            Self::Transient { .. } | Self::NoAnswer { .. } | Self::NoAck { .. }
        )
    }
}

/// Why a stream accepts nothing, though the message is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) kind: IssueKind,
    /// Only the subject of the message is affected.
    pub(crate) is_of_subject: bool,
    /// The server's description.
    pub(crate) reason: String,
    /// What to do about it.
    pub(crate) cure: &'static str,
}

/// The cause when publishing to a subject is denied.
pub(crate) fn cause_of_denial(subject: &str) -> Cause {
    Cause {
        kind: IssueKind::DeniedNats,
        is_of_subject: true,
        reason: format!("this user may not publish to {subject}"),
        cure: "allow it in the permissions of the user",
    }
}

/// The cause when a stream has `no_ack`.
pub(crate) fn cause_of_no_ack(stream: &str) -> Cause {
    Cause {
        kind: IssueKind::NoAck,
        is_of_subject: false,
        reason: format!(
            "no_ack of {stream} is true: the server confirms nothing that it stores, so its publishers do not know \
             what is stored"
        ),
        cure: "tidings streams apply, which sets it to false, or nats stream edit STREAM --ack",
    }
}

/// The kind and the cure of a stream that accepts nothing.
pub(super) fn closed(code: u64, reason: &str) -> Option<(IssueKind, &'static str)> {
    Some(match code {
        // The limits of the stream, with `discard: new`.
        publish::STORE_FAILED if reason.starts_with("maximum") => (
            IssueKind::StreamFull,
            "raise the limits of the stream, or purge what is not needed",
        ),
        _ if codes::kind_of(code) == BusErrorKind::StorageFull => {
            (issue_kind_of_code(code), cure_of_code(code))
        }
        _ if is_disk(reason) => (IssueKind::StorageFull, FULL_DISK),
        codes::STREAM_SEALED => (
            IssueKind::StreamSealed,
            "a sealed stream stores no new messages: delete it, or give its subjects to another stream",
        ),
        _ => return None,
    })
}

/// The cure when the server cannot write. It continues to fail until its restart, even with free space: seen with
/// 2.15.1.
pub(crate) const FULL_DISK: &str = "free space on the disk of the JetStream store and restart that nats-server; the \
     relay continues by itself";

/// Whether the error comes from the operating system.
fn is_disk(reason: &str) -> bool {
    let reason = reason.to_ascii_lowercase();
    [
        "no space left",
        "disk",
        "input/output error",
        "quota exceeded",
    ]
    .iter()
    .any(|words| reason.contains(words))
}

impl Refusal {
    /// The kind of the issue that this refusal is.
    pub(crate) fn kind(&self) -> IssueKind {
        match self {
            Self::Closed(cause) => cause.kind,
            Self::NoAck { .. } => IssueKind::NoAck,
            Self::Transient { code: 0, .. } | Self::NoAnswer { .. } => IssueKind::NatsSilent,
            Self::Transient { code, .. } => issue_kind_of_code(*code),
            _ => IssueKind::RelayInterrupted,
        }
    }

    /// The cure for this refusal.
    pub(crate) fn cure(&self) -> &'static str {
        match self {
            Self::Closed(cause) => cause.cure,
            Self::NoAck { stream } => cause_of_no_ack(stream).cure,
            Self::Transient { code: 0, .. } | Self::NoAnswer { .. } => {
                "see whether that nats-server is frozen or overloaded, and whether the stream has a leader: nats server \
                 report jetstream"
            }
            Self::Transient { code, .. } => cure_of_code(*code),
            _ => "none is needed, the relay begins again",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moved => f.write_str("another stream takes the subject now"),
            Self::DuplicateId(other) => f.write_str(other),
            Self::Duplicate => f.write_str(
                "the stream already has an id of the batch, or the batch has one id twice",
            ),
            Self::Closed(cause) => f.write_str(&cause.reason),
            Self::TooMany { most } => {
                write!(f, "the server takes at most {most} messages in a batch")
            }
            Self::Incomplete => f.write_str("a part of the batch did not reach the server"),
            Self::NoAck { stream } => f.write_str(&cause_of_no_ack(stream).reason),
            Self::NoAnswer { after } => write!(f, "no answer within {after:?}"),
            Self::Permanent { code: 0, reason } | Self::Transient { code: 0, reason } => {
                f.write_str(reason)
            }
            Self::Permanent { code, reason } | Self::Transient { code, reason } => {
                write!(f, "{reason} ({code})")
            }
        }
    }
}
