//! The interface between the outbox and a database: the values that are stored, and the statements, a trait for each part
//! of the tables. Each database implements them in its own folder. Nothing here knows the rooms that use it, and apart
//! from those folders nothing knows which database it is.

pub(in crate::outbox) mod chunks;
pub(in crate::outbox) mod columns;
#[cfg(test)]
mod conformance;
pub(in crate::outbox) mod delayed;
pub(in crate::outbox) mod diagnosis;
pub(in crate::outbox) mod dialect;
pub(in crate::outbox) mod home;
pub(in crate::outbox) mod housekeeping;
pub(in crate::outbox) mod inbox;
pub(in crate::outbox) mod inbox_ring;
pub(in crate::outbox) mod leased_connection;
pub(in crate::outbox) mod ledger;
pub(in crate::outbox) mod log;
pub(in crate::outbox) mod losses;
pub(in crate::outbox) mod migrations;
pub(in crate::outbox) mod names;
pub(in crate::outbox) mod origin;
pub(in crate::outbox) mod parked;
#[cfg(feature = "postgres")]
pub(in crate::outbox) mod postgres;
pub(in crate::outbox) mod preflight;
pub(in crate::outbox) mod relay;
pub(in crate::outbox) mod republish;
pub(in crate::outbox) mod row;
pub(in crate::outbox) mod sessions;
#[cfg(feature = "sqlite")]
pub(in crate::outbox) mod sqlite;
pub(in crate::outbox) mod status;
pub(in crate::outbox) mod trace;

mod values;

use sqlx::Database;

pub(crate) use self::values::{
    Bound, Checkpoint, Claim, Entry, Last, Page, Parked, Position, Reason, Tenure, Waiting, Written,
};
pub(super) use self::{
    delayed::DelayedStatements,
    dialect::Dialect,
    home::HomeStatements,
    housekeeping::{HousekeepingStatements, LEDGER_RETENTION, Reclaimed},
    inbox::InboxStatements,
    ledger::LedgerStatements,
    log::LogStatements,
    losses::LossStatements,
    migrations::{Migration, MigrationStatements},
    names::Names,
    parked::ParkedStatements,
    preflight::PreflightStatements,
    relay::{Cursor, RelayStatements},
    republish::RepublishStatements,
    row::{Row, Rows},
    sessions::SessionStatements,
    status::StatusStatements,
    trace::TraceStatements,
    values::{Positions, positions_from, positions_text, sequence, unsigned},
};

/// A database that can hold an outbox. Sealed: Postgres and SQLite.
pub trait Store: Database<Connection: Send> + Statements {}

impl<DB: Statements> Store for DB {}

/// All statements of one database. Every time is the database's clock.
pub trait Statements:
    Dialect
    + MigrationStatements
    + LogStatements
    + DelayedStatements
    + RelayStatements
    + ParkedStatements
    + HousekeepingStatements
    + SessionStatements
    + StatusStatements
    + LedgerStatements
    + RepublishStatements
    + LossStatements
    + HomeStatements
    + PreflightStatements
    + InboxStatements
    + TraceStatements
{
}

impl<DB> Statements for DB where
    DB: Dialect
        + MigrationStatements
        + LogStatements
        + DelayedStatements
        + RelayStatements
        + ParkedStatements
        + HousekeepingStatements
        + SessionStatements
        + StatusStatements
        + LedgerStatements
        + RepublishStatements
        + LossStatements
        + HomeStatements
        + PreflightStatements
        + InboxStatements
        + TraceStatements
{
}
