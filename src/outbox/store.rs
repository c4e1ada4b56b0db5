//! The interface between the outbox and a database. Each database implements it in its own file; nothing here knows
//! which database it is.

pub(in crate::outbox) mod chunks;
pub(in crate::outbox) mod columns;
pub(in crate::outbox) mod diagnosis;
pub(in crate::outbox) mod link;
pub(in crate::outbox) mod migrate;
pub(in crate::outbox) mod names;
#[cfg(feature = "postgres")]
pub(in crate::outbox) mod postgres;
pub(in crate::outbox) mod row;
#[cfg(feature = "sqlite")]
pub(in crate::outbox) mod sqlite;
pub(in crate::outbox) mod taken;

mod values;

use std::{collections::HashSet, fmt::Debug, time::Duration};

use sqlx::{Connection, Database};
use tidings_contract::{Envelope, EventId};

use self::link::{Backend, Session};
use super::{
    HeldSlot, ParkedEvent, ParkedSelection, Status,
    delayed::Schedule,
    history::{contents::Contents, relayed::Archive, traced::Trail},
    home::HomeKeeping,
    inbox::Remember,
    origin::Origin,
    parked::{BlockedOn, Extent, ParkedSize},
    republish::RepublishStatements,
    standing::LossKeeping,
};

pub(super) use self::{
    names::Names,
    row::{Row, Rows},
};

pub(crate) use values::{
    Bound, Checkpoint, Claim, Entry, Last, Migration, Page, Parked, Position, Reason, Reclaimed,
    Tenure, Waiting, Written,
};
pub(super) use values::{
    LEDGER_RETENTION, Positions, positions_from, positions_text, sequence, unsigned,
};

/// A database that can hold an outbox. Sealed: Postgres and SQLite.
pub trait Store: Database<Connection: Send> + Statements {}

impl<DB: Statements> Store for DB {}

/// How far the relay is, in the form of one database.
pub trait Cursor: Clone + Debug + Send + Sync + 'static {}

impl<T: Clone + Debug + Send + Sync + 'static> Cursor for T {}

/// The statements of one database. Every time is the database's clock.
pub trait Statements:
    Schedule + Remember + Contents + Archive + LossKeeping + HomeKeeping + RepublishStatements + Trail
{
    /// The database's name in logs and messages.
    const KIND: &'static str;
    /// Begins a transaction that writes.
    const BEGIN: &'static str;
    /// Begins a transaction that holds only statements of Tidings; the server ends it when its client is gone, where
    /// that must be requested.
    const BEGIN_OWN: &'static str = Self::BEGIN;
    /// Whether the database has one writer at a time. Its other writers poll for the lock, which is neither quick nor
    /// fair.
    const TAKES_TURNS: bool;
    /// Whether the database is reached over a connection, which can be lost, and does not run in this process.
    const IS_REMOTE: bool;
    /// Begins an operation that a caller waits for, where the wait for a lock must be limited.
    const BEGIN_TO_LOOK: Option<&'static str>;
    /// The table that records migrations, in the default schema.
    const MIGRATION_TABLE: &'static str;
    /// The migrations, in order; a migration's version is its position, from 1.
    const MIGRATIONS: &'static [Migration];
    /// How far the relay is.
    type Cursor: Cursor;

    /// Whether, by these options, transactions share connections with other clients.
    fn is_pooled(options: &<Self::Connection as Connection>::Options) -> bool;

    /// Whether a statement failed because a table is missing, or a column of a later migration.
    fn is_missing_table(error: &sqlx::Error) -> bool;

    /// Returns what [`Statements::begin_migration`] does, as text for printing.
    fn migration_preamble(names: &Names) -> String;

    /// Returns a statement with the table names of an outbox.
    fn text(names: &Names, statement: &str) -> String;

    /// Takes the lock that serialises migrations, creates the table that records them, and returns the current version
    /// of the database. Runs inside a transaction.
    fn begin_migration(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<i32, sqlx::Error>> + Send;

    /// Runs one migration and records it.
    fn apply_migration(
        connection: &mut Self::Connection,
        names: &Names,
        version: i32,
        migration: &Migration,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Writes events, in their order.
    fn insert(
        connection: &mut Self::Connection,
        names: &Names,
        envelopes: &[Envelope],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Whether the relay's cursor is valid in this database. It always is where a copy is as good as the original.
    fn origin(
        _connection: &mut Self::Connection,
        _names: &Names,
    ) -> impl Future<Output = Result<Origin, sqlx::Error>> + Send {
        std::future::ready(Ok(Origin::Own))
    }

    /// Takes or renews the lease; `None` while another relay has it.
    fn claim(
        connection: &mut Self::Connection,
        names: &Names,
        owner: &str,
        lease: Duration,
    ) -> impl Future<Output = Result<Option<Claim<Self::Cursor>>, sqlx::Error>> + Send;

    /// Writes how far the relay is and what was confirmed, and renews the lease, atomically; `None` when the epoch is
    /// over. The followers of a restored row are marked for unparking.
    fn checkpoint(
        connection: &mut Self::Connection,
        names: &Names,
        tenure: &Tenure,
        checkpoint: &Checkpoint<Self::Cursor>,
    ) -> impl Future<Output = Result<Option<Written>, sqlx::Error>> + Send;

    /// Writes the issues of a relay that has no lease; does nothing while another relay has it.
    fn complain(
        connection: &mut Self::Connection,
        names: &Names,
        owner: &str,
        issues: &str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Records the server's limit for headers and payload together, for readers of the database.
    fn note_limit(
        _connection: &mut Self::Connection,
        _names: &Names,
        _max_payload: usize,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        std::future::ready(Ok(()))
    }

    /// Ends the lease, so that a standby need not wait for it to expire.
    fn release(
        connection: &mut Self::Connection,
        names: &Names,
        tenure: &Tenure,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Reads the committed rows after the cursor, in the order of ids; at most `bound`.
    fn fetch(
        connection: &mut Self::Connection,
        names: &Names,
        cursor: &Self::Cursor,
        bound: Bound,
    ) -> impl Future<Output = Result<Page<Self::Cursor>, sqlx::Error>> + Send;

    /// Parks rows with their errors. A row that is parked already gets the new error, and its unpark request is
    /// cleared. The requests of the later rows of its key are cleared, too; when the row waits for a stream they are
    /// set instead. A row with a flaw is moved unchanged, inside the database.
    fn park(
        connection: &mut Self::Connection,
        names: &Names,
        rows: &[Parked],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Returns the keys whose later rows are parked too, each with the id of its first parked row.
    fn parked_keys(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<Vec<(String, i64)>, sqlx::Error>> + Send;

    /// Returns what parked rows wait for, and whether an unpark was requested.
    fn waiting(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<Waiting, sqlx::Error>> + Send;

    /// Returns the parked rows to restore: those with an unpark request, those that wait for one of `open`, and the
    /// rows that follow them under their keys; in the order of ids, after an id.
    fn returning(
        connection: &mut Self::Connection,
        names: &Names,
        open: &[BlockedOn],
        behind: i64,
        bound: Bound,
    ) -> impl Future<Output = Result<Rows, sqlx::Error>> + Send;

    /// Returns the parked rows that have one of these event ids, in the order of row ids, after a row id.
    fn parked_among(
        connection: &mut Self::Connection,
        names: &Names,
        events: &[EventId],
        behind: i64,
    ) -> impl Future<Output = Result<Rows, sqlx::Error>> + Send;

    /// Returns which of these row ids of the log the cursor has not passed.
    fn ahead(
        connection: &mut Self::Connection,
        names: &Names,
        cursor: &Self::Cursor,
        ids: &[i64],
    ) -> impl Future<Output = Result<HashSet<i64>, sqlx::Error>> + Send;

    /// Returns the sizes of parked rows, in the order of ids, after an id. Reads no payload.
    fn parked_sizes(
        connection: &mut Self::Connection,
        names: &Names,
        selection: &ParkedSelection,
        behind: i64,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<ParkedSize>, sqlx::Error>> + Send;

    /// Returns these parked rows, as far as they exist, in the order of ids.
    fn parked(
        connection: &mut Self::Connection,
        names: &Names,
        ids: &[i64],
        extent: Extent,
    ) -> impl Future<Output = Result<Vec<ParkedEvent>, sqlx::Error>> + Send;

    /// Requests unparking; returns the number of rows.
    fn unpark(
        connection: &mut Self::Connection,
        names: &Names,
        selection: &ParkedSelection,
    ) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;

    /// Deletes parked rows and returns them.
    fn discard(
        connection: &mut Self::Connection,
        names: &Names,
        ids: &[i64],
        extent: Extent,
    ) -> impl Future<Output = Result<Vec<ParkedEvent>, sqlx::Error>> + Send;

    /// Frees events that the cursor has passed and that are older than `retention`, and ledger entries older than
    /// [`LEDGER_RETENTION`]; returns what was freed, if anything.
    fn reclaim(
        connection: &mut Self::Connection,
        names: &Names,
        cursor: &Self::Cursor,
        retention: Duration,
    ) -> impl Future<Output = Result<Reclaimed, sqlx::Error>> + Send;

    /// Returns the slots that should be free but are held by transactions.
    fn held(
        _connection: &mut Self::Connection,
        _names: &Names,
    ) -> impl Future<Output = Result<Vec<HeldSlot>, sqlx::Error>> + Send {
        std::future::ready(Ok(Vec::new()))
    }

    /// Limits how long statements on a connection outside the pool wait for a lock, and how long the server waits for a
    /// client that is gone, where the connection's options do not set these.
    fn bound_waits(
        _connection: &mut Self::Connection,
        _names: &Names,
        _wait: Duration,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        std::future::ready(Ok(()))
    }

    /// Whether a statement failed because another transaction held a lock for too long.
    fn is_locked_out(error: &sqlx::Error) -> bool;

    /// Describes who holds a lock on the outbox.
    fn locked_by(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<String, sqlx::Error>> + Send;

    /// Returns the remote host when the connection to it may be unencrypted.
    fn plain_link(_options: &<Self::Connection as Connection>::Options) -> Option<String> {
        None
    }

    /// Returns what the server does for this user in this database, apart from this statement.
    fn sessions(
        _connection: &mut Self::Connection,
        _names: &Names,
    ) -> impl Future<Output = Result<Vec<Session>, sqlx::Error>> + Send {
        std::future::ready(Ok(Vec::new()))
    }

    /// Ends a transaction of this user, and its connection. Returns whether it was running a statement.
    fn end_session(
        _connection: &mut Self::Connection,
        _backend: Backend,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send {
        std::future::ready(Ok(false))
    }

    /// Returns the figures of `tidings outbox status`.
    fn status(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<Status, sqlx::Error>> + Send;
}
