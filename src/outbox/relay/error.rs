//! Why a relay ends by itself. Never a fault that it recovers from.

use super::Fault;
use crate::{
    outbox::{DatabaseError, Store, home::USE_NATS, store::origin::ADOPT, version_sentence},
    preflight::PreflightRefusal,
};

/// Why a relay can never work as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The tables do not exist.
    #[error("the database has no outbox: run `tidings migrate`, or call `Outbox::migrate`")]
    NotMigrated(#[source] DatabaseError),
    /// The database is a copy, made by dump and restore or row by row.
    #[error("{reason}; {ADOPT}")]
    Foreign {
        /// How that shows.
        reason: String,
    },
    /// The tables belong to a newer or an older Tidings.
    #[error("{}", version_sentence(*found, *known, *is_newer))]
    Version {
        /// The version of the tables.
        found: usize,
        /// The version that this program knows.
        known: usize,
        /// Whether the tables are newer.
        is_newer: bool,
    },
    /// The connected NATS is not the one that the outbox is relayed into.
    #[error("{reason}; try: {USE_NATS}")]
    Elsewhere {
        /// How that shows.
        reason: String,
    },
    /// A check at the start has found that it cannot work, or that it loses events.
    #[error(transparent)]
    Refused(PreflightRefusal),
}

impl RelayError {
    /// The error of a fault that no retry recovers from; `Ok` with the fault when one may. If the version or the
    /// NATS changes while the relay works, the relay waits instead of ending.
    pub(super) fn or_fault<DB: Store>(fault: Fault, is_admitted: bool) -> Result<Fault, Self> {
        match fault {
            Fault::Database(error) if DB::is_missing_table(&error) => {
                Err(Self::NotMigrated(error.into()))
            }
            Fault::Foreign(reason) => Err(Self::Foreign { reason }),
            Fault::Elsewhere(reason) if !is_admitted => Err(Self::Elsewhere { reason }),
            Fault::Version {
                found,
                known,
                is_newer,
            } if !is_admitted => Err(Self::Version {
                found,
                known,
                is_newer,
            }),
            fault => Ok(fault),
        }
    }
}
