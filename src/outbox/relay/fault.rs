//! What interrupts a relay, and what helps. Never decides how long it pauses.

use crate::{
    bus::{BusError, ReaderError, Refusal},
    outbox::{
        Diagnosis,
        origin::{REBASE, STANDBY},
    },
};

const SEE_TO_IT: &str = "see to the database: the relay tries again for ever";

/// What interrupts the relay; it begins again after a pause.
#[derive(Debug, thiserror::Error)]
pub(in crate::outbox) enum Fault {
    #[error("{cause}: {0}", cause = Diagnosis::of(.0).map_or("the database failed", |diagnosis| diagnosis.cause))]
    Database(#[from] sqlx::Error),
    /// Others have locked something of the outbox.
    #[error("{0}")]
    Locked(String),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error("{error}: {cause}", error = .0, cause = std::error::Error::source(.0).map(ToString::to_string).unwrap_or_default())]
    Reader(#[from] ReaderError),
    #[error("stream {stream} did not confirm: {refusal}")]
    Unconfirmed { stream: String, refusal: Refusal },
    #[error("the connection to NATS was lost")]
    Disconnected,
    #[error("stream {stream} is not the one that it was a moment ago, or has lost its end")]
    WentBack { stream: String },
    #[error("stream {stream} is gone")]
    Gone { stream: String },
    #[error("the lease is over: it was not renewed in time, or another relay has it")]
    Fenced,
    #[error("the database does not answer")]
    Silent,
    #[error("{STANDBY}")]
    Standby,
    #[error("{0}; {REBASE}")]
    Foreign(String),
    #[error("{subject} has moved to another stream")]
    Moved { subject: String },
    #[error("the relay was told to stop")]
    Stopped,
    #[error("a part of the relay ended: {0}")]
    Ended(String),
}

impl Fault {
    /// What helps, where it does not pass by itself.
    pub(super) fn cure(&self) -> &'static str {
        match self {
            Self::Database(error) => {
                Diagnosis::of(error).map_or(SEE_TO_IT, |diagnosis| diagnosis.cure)
            }
            Self::Locked(_) => {
                "wait until that transaction ends, or end it: select pg_terminate_backend(PID)"
            }
            Self::Silent => SEE_TO_IT,
            Self::Bus(_) | Self::Reader(_) | Self::Unconfirmed { .. } | Self::Disconnected => {
                "see to NATS: the relay tries again for ever"
            }
            _ => "none is needed, the relay begins again",
        }
    }
}

/// How a part of the relay has ended, when it was not to.
pub(super) fn fault_of(ended: Result<Result<(), Fault>, tokio::task::JoinError>) -> Fault {
    match ended {
        Ok(Ok(())) => Fault::Ended("without a reason".to_owned()),
        Ok(Err(fault)) => fault,
        Err(error) => Fault::Ended(error.to_string()),
    }
}
