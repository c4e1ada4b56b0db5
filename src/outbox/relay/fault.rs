//! What interrupts a relay, and its cure. Never decides how long the relay pauses.

use std::time::Duration;

use super::issue::RELAY;
use crate::{
    error_text::said,
    nats::{Bus, BusError, FULL_DISK, ReaderError, Refusal, cause_of_no_ack},
    outbox::{
        Diagnosis, OutboxError,
        home::{USE_NATS, of_version},
        store::{
            Names, Statements,
            origin::{ADOPT, PROMOTE, STANDBY},
            parked::BlockedOn,
        },
        version_sentence,
    },
    policy::issue_kind::IssueKind,
    task::fence::LeaseOver,
};

/// What interrupts the relay; it restarts after a pause.
#[derive(Debug, thiserror::Error)]
pub(in crate::outbox) enum Fault {
    #[error("{cause}: {}", said(.0), cause = Diagnosis::of(.0).map_or("the database failed", |diagnosis| diagnosis.cause))]
    Database(#[from] sqlx::Error),
    /// Another connection holds a lock on the outbox.
    #[error("{0}")]
    Locked(String),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error("{error}: {cause}", error = .0, cause = std::error::Error::source(.0).map(ToString::to_string).unwrap_or_default())]
    Reader(#[from] ReaderError),
    #[error("stream {stream} did not confirm: {refusal}")]
    Unconfirmed { stream: String, refusal: Refusal },
    /// The server answers, and does not store what it was sent.
    #[error(
        "stream {stream} does not store the events that the relay sends: its server answers, and within {after:?} \
         {stored} of {sent} events were stored; the disk of its JetStream store is full, fails, or is too slow"
    )]
    Unwritten {
        stream: String,
        sent: usize,
        stored: u64,
        after: Duration,
    },
    /// The stream sends no acks to its publishers.
    #[error("{}", cause_of_no_ack(stream).reason)]
    NoAck { stream: String },
    #[error("the connection to NATS was lost")]
    Disconnected,
    #[error("stream {stream} was recreated a moment ago, or has lost its last messages")]
    WentBack { stream: String },
    #[error("stream {stream} is gone")]
    Gone { stream: String },
    #[error("the lease is lost: another relay has it, or the database was restarted")]
    Fenced,
    #[error("{}", LeaseOver::StoodStill)]
    StoodStill,
    #[error("{}", LeaseOver::Silent)]
    Silent,
    #[error("{STANDBY}")]
    Standby,
    #[error("{0}; {ADOPT}")]
    Foreign(String),
    #[error("{}", version_sentence(*found, *known, *is_newer))]
    Version {
        found: usize,
        known: usize,
        is_newer: bool,
    },
    #[error("{0}")]
    Elsewhere(String),
    #[error("{subject} has moved to another stream")]
    Moved { subject: String },
    #[error("the relay was stopped")]
    Stopped,
    #[error("a part of the relay ended: {0}")]
    Ended(String),
}

const NONE: &str = "none is needed: the relay starts again by itself";

impl Fault {
    /// The place of the issue.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Unwritten { stream, .. } | Self::NoAck { stream } => {
                BlockedOn::Stream(stream.clone()).to_string()
            }
            _ => RELAY.to_owned(),
        }
    }

    /// The kind of the issue.
    pub(super) fn kind(&self, bus: &Bus) -> IssueKind {
        match self {
            Self::Database(error) => {
                Diagnosis::of(error).map_or(IssueKind::DatabaseFailed, |diagnosis| diagnosis.kind)
            }
            Self::Locked(_) => IssueKind::DatabaseLocked,
            Self::Silent => IssueKind::DatabaseSilent,
            Self::Bus(_) | Self::Reader(_) | Self::Unconfirmed { .. } if !bus.is_connected() => {
                IssueKind::NatsUnreachable
            }
            Self::Disconnected => IssueKind::NatsUnreachable,
            Self::Bus(error) => error.issue_kind(),
            Self::Reader(error) => {
                of_reader(error).map_or(IssueKind::NatsRefused, BusError::issue_kind)
            }
            Self::Unconfirmed { refusal, .. } => refusal.kind(),
            Self::Unwritten { .. } => IssueKind::StorageFull,
            Self::NoAck { .. } => IssueKind::NoAck,
            Self::Standby => IssueKind::DatabaseStandby,
            Self::Foreign(_) => IssueKind::DatabaseForeign,
            Self::Version { is_newer: true, .. } => IssueKind::SchemaNewer,
            Self::Version { .. } => IssueKind::SchemaOlder,
            Self::Elsewhere(_) => IssueKind::Elsewhere,
            Self::Gone { .. } => IssueKind::StreamGone,
            Self::WentBack { .. } => IssueKind::StreamTruncated,
            Self::Fenced
            | Self::StoodStill
            | Self::Moved { .. }
            | Self::Stopped
            | Self::Ended(_) => IssueKind::RelayInterrupted,
        }
    }

    /// Whether the fault holds events up. While this relay stood still, another one may have relayed them.
    pub(super) fn holds_up(&self) -> bool {
        !matches!(self, Self::Stopped | Self::Fenced | Self::StoodStill)
    }

    /// The cure, unless the fault passes by itself; `kind` is the database's.
    pub(super) fn cure(&self, kind: &str, bus: &Bus) -> String {
        match self {
            Self::Database(error) => match Diagnosis::of(error) {
                Some(diagnosis) => diagnosis.cure.to_owned(),
                None if kind == "sqlite" => "check the file and its disk".to_owned(),
                None => "see the log of the database server".to_owned(),
            },
            Self::Locked(_) if kind == "sqlite" => {
                "wait until its transaction ends, or end that process: `fuser FILE` or `lsof FILE` names it".into()
            }
            Self::Locked(_) => {
                "wait until that transaction ends, or end it: select pg_terminate_backend(PID)".into()
            }
            Self::Silent if kind == "sqlite" => {
                "end the transaction that holds the write lock of the file, or check the disk of the file".into()
            }
            Self::Silent => "check whether the database server is frozen, overloaded or cut off, and what waits for a \
                             lock in pg_stat_activity"
                .into(),
            Self::Bus(_) | Self::Reader(_) | Self::Unconfirmed { .. } | Self::Disconnected
                if !bus.is_connected() =>
            {
                format!(
                    "start a nats-server at {}, or check the network between; the relay connects by itself",
                    bus.servers()
                )
            }
            Self::Bus(error) => error.cure(),
            Self::Reader(error) => match of_reader(error) {
                Some(error) => error.cure(),
                None => "correct what the error names; the relay reads the stream again by itself".into(),
            },
            Self::Unconfirmed { refusal, .. } => refusal.cure().to_owned(),
            Self::Unwritten { .. } => FULL_DISK.to_owned(),
            Self::NoAck { stream } => cause_of_no_ack(stream).cure.to_owned(),
            Self::Disconnected => {
                "none is needed if the relay stays connected: it checks the streams again".into()
            }
            Self::Standby => PROMOTE.to_owned(),
            Self::Foreign(_) => "tidings outbox adopt".to_owned(),
            Self::Version { is_newer: true, .. } => {
                "use a newer Tidings, or run no relay of this version: a relay of the newer version does the \
                 work".to_owned()
            }
            Self::Version { .. } => "tidings migrate".to_owned(),
            Self::Elsewhere(_) => USE_NATS.to_owned(),
            _ => NONE.to_owned(),
        }
    }
}

fn of_reader(error: &ReaderError) -> Option<&BusError> {
    std::error::Error::source(error)?.downcast_ref()
}

impl From<LeaseOver> for Fault {
    fn from(over: LeaseOver) -> Self {
        match over {
            LeaseOver::Silent => Self::Silent,
            LeaseOver::StoodStill => Self::StoodStill,
        }
    }
}

/// Checks that the tables are of this program's version, as far as this role may know.
pub(super) async fn is_of_version<DB: Statements>(
    connection: &mut DB::Connection,
    names: &Names,
) -> Result<(), Fault> {
    match of_version::<DB>(names, DB::version(connection, names).await?) {
        Err(OutboxError::Version {
            found,
            known,
            is_newer,
        }) => Err(Fault::Version {
            found,
            known,
            is_newer,
        }),
        _ => Ok(()),
    }
}

/// The fault of a part of the relay that ended unexpectedly.
pub(super) fn fault_of(ended: Result<Result<(), Fault>, tokio::task::JoinError>) -> Fault {
    match ended {
        Ok(Ok(())) => Fault::Ended("without a reason".to_owned()),
        Ok(Err(fault)) => fault,
        Err(error) => Fault::Ended(error.to_string()),
    }
}
