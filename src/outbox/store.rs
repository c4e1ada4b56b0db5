//! What the outbox asks of a database. Each database answers in a file of its own; nothing here knows
//! which one it is.

mod values;

use std::{collections::HashSet, fmt::Debug, time::Duration};

use sqlx::{Connection, Database};
use tidings_contract::{Envelope, EventId};

use super::{
    HeldSlot, ParkedEvent, ParkedSelection, Status,
    contents::Contents,
    delayed::Schedule,
    home::HomeKeeping,
    inbox::Remember,
    link::{Backend, Session},
    mend::Mending,
    origin::Origin,
    parked::{Extent, ParkedSize, WaitsFor},
    relayed::Archive,
    standing::LossKeeping,
    traced::Trail,
};

pub(super) use super::{
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

/// How far the relay is, in the words of one database.
pub trait Cursor: Clone + Debug + Send + Sync + 'static {}

impl<T: Clone + Debug + Send + Sync + 'static> Cursor for T {}

/// The statements of one database. Every time is the database's clock.
pub trait Statements:
    Schedule + Remember + Contents + Archive + LossKeeping + HomeKeeping + Mending + Trail
{
    /// The word for logs and messages.
    const KIND: &'static str;
    /// How a transaction that writes begins.
    const BEGIN: &'static str;
    /// How one begins in which are only statements of ours, where it has to be told to end when its client is gone.
    const BEGIN_OWN: &'static str = Self::BEGIN;
    /// Whether it has one writer at a time. The others look again and again, which is neither quick nor fair.
    const TAKES_TURNS: bool;
    /// Whether it is at the end of a connection, which can be lost, and not in this process.
    const IS_REMOTE: bool;
    /// How an operation begins that somebody waits for, when it has to be told not to wait for a lock for long.
    const BEGIN_TO_LOOK: Option<&'static str>;
    /// The table that records migrations, in the default schema.
    const MIGRATION_TABLE: &'static str;
    /// The migrations, in order; a migration's version is its place, from 1.
    const MIGRATIONS: &'static [Migration];
    /// How far the relay is.
    type Cursor: Cursor;

    /// Whether transactions share connections with those of other clients, by these options.
    fn is_pooled(options: &<Self::Connection as Connection>::Options) -> bool;

    /// Whether a statement failed because the tables are not there.
    fn is_missing_table(error: &sqlx::Error) -> bool;

    /// What [`Statements::begin_migration`] does, as text: for printing.
    fn migration_preamble(names: &Names) -> String;

    /// A statement in the names of an outbox.
    fn text(names: &Names, statement: &str) -> String;

    /// Takes the lock that serialises migrations, creates the table that records them, and returns the
    /// version that the database is at. Inside a transaction.
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

    /// Whether the relay's cursor means this database. On a database whose copies are as good as the
    /// original, it does.
    fn origin(
        _connection: &mut Self::Connection,
        _names: &Names,
    ) -> impl Future<Output = Result<Origin, sqlx::Error>> + Send {
        std::future::ready(Ok(Origin::Own))
    }

    /// Takes the lease, or renews it; `None` while somebody else has it.
    fn claim(
        connection: &mut Self::Connection,
        names: &Names,
        owner: &str,
        lease: Duration,
    ) -> impl Future<Output = Result<Option<Claim<Self::Cursor>>, sqlx::Error>> + Send;

    /// Writes how far the relay is and what was confirmed, and renews the lease, in one statement;
    /// `None` when the epoch is over. What follows a row that has gone back is asked for from then on.
    fn checkpoint(
        connection: &mut Self::Connection,
        names: &Names,
        tenure: &Tenure,
        checkpoint: &Checkpoint<Self::Cursor>,
    ) -> impl Future<Output = Result<Option<Written>, sqlx::Error>> + Send;

    /// Writes what troubles the relay while it has no lease; does nothing while another one has it.
    fn complain(
        connection: &mut Self::Connection,
        names: &Names,
        owner: &str,
        troubles: &str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Writes down what the server takes, headers and payload together, for those who ask the database.
    fn note_limit(
        _connection: &mut Self::Connection,
        _names: &Names,
        _max_payload: usize,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        std::future::ready(Ok(()))
    }

    /// Ends the lease, so that a stand-by need not wait for it.
    fn release(
        connection: &mut Self::Connection,
        names: &Names,
        tenure: &Tenure,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// What was committed behind the cursor, in the order of ids; at most `bound`.
    fn fetch(
        connection: &mut Self::Connection,
        names: &Names,
        cursor: &Self::Cursor,
        bound: Bound,
    ) -> impl Future<Output = Result<Page<Self::Cursor>, sqlx::Error>> + Send;

    /// Puts rows aside with their errors. A row that is parked already gets the new error, and is no longer
    /// asked for; nor is what follows it under its key, unless it waits for a stream: then that is. A row with a
    /// flaw is moved as it is, inside the database.
    fn park(
        connection: &mut Self::Connection,
        names: &Names,
        rows: &[Parked],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// The keys whose later rows are parked too, each with the id of its first parked row.
    fn parked_keys(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<Vec<(String, i64)>, sqlx::Error>> + Send;

    /// What parked rows wait for, and whether some are asked for.
    fn waiting(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<Waiting, sqlx::Error>> + Send;

    /// The parked rows that go back: those that are asked for, those that wait for one of `open`, and what
    /// follows them under their keys; in the order of ids, behind an id.
    fn returning(
        connection: &mut Self::Connection,
        names: &Names,
        open: &[WaitsFor],
        behind: i64,
        bound: Bound,
    ) -> impl Future<Output = Result<Rows, sqlx::Error>> + Send;

    /// The parked rows that have one of these ids, in the order of their places, behind a place.
    fn parked_among(
        connection: &mut Self::Connection,
        names: &Names,
        events: &[EventId],
        behind: i64,
    ) -> impl Future<Output = Result<Rows, sqlx::Error>> + Send;

    /// Which of these places of the log the cursor has not passed.
    fn ahead(
        connection: &mut Self::Connection,
        names: &Names,
        cursor: &Self::Cursor,
        ids: &[i64],
    ) -> impl Future<Output = Result<HashSet<i64>, sqlx::Error>> + Send;

    /// How large parked rows are, in the order of ids, behind an id. Reads no payload.
    fn parked_sizes(
        connection: &mut Self::Connection,
        names: &Names,
        selection: &ParkedSelection,
        behind: i64,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<ParkedSize>, sqlx::Error>> + Send;

    /// These parked rows, as far as they are there, in the order of ids.
    fn parked(
        connection: &mut Self::Connection,
        names: &Names,
        ids: &[i64],
        extent: Extent,
    ) -> impl Future<Output = Result<Vec<ParkedEvent>, sqlx::Error>> + Send;

    /// Asks for parked rows; returns how many.
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

    /// Frees events that are older than `retention` and behind the cursor, and entries of the ledger that are
    /// older than [`LEDGER_RETENTION`]; returns what was freed, if anything.
    fn reclaim(
        connection: &mut Self::Connection,
        names: &Names,
        cursor: &Self::Cursor,
        retention: Duration,
    ) -> impl Future<Output = Result<Reclaimed, sqlx::Error>> + Send;

    /// What should be free and is held by transactions.
    fn held(
        _connection: &mut Self::Connection,
        _names: &Names,
    ) -> impl Future<Output = Result<Vec<HeldSlot>, sqlx::Error>> + Send {
        std::future::ready(Ok(Vec::new()))
    }

    /// Has statements on a connection of its own wait for a lock no longer than this, and the server not for long for a
    /// client that is gone, where that is no matter of the connection's options.
    fn bound_waits(
        _connection: &mut Self::Connection,
        _names: &Names,
        _wait: Duration,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        std::future::ready(Ok(()))
    }

    /// Whether a statement failed because others have locked something for too long.
    fn is_locked_out(error: &sqlx::Error) -> bool;

    /// Who has locked something of the outbox, for people.
    fn locked_by(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<String, sqlx::Error>> + Send;

    /// The remote host to which the connection may be in the clear.
    fn plain_link(_options: &<Self::Connection as Connection>::Options) -> Option<String> {
        None
    }

    /// What the server does for this user in this database, besides this.
    fn sessions(
        _connection: &mut Self::Connection,
        _names: &Names,
    ) -> impl Future<Output = Result<Vec<Session>, sqlx::Error>> + Send {
        std::future::ready(Ok(Vec::new()))
    }

    /// Ends a transaction of this user's, and its connection. Says whether it was at a statement.
    fn end_session(
        _connection: &mut Self::Connection,
        _backend: Backend,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send {
        std::future::ready(Ok(false))
    }

    /// The figures of `tidings outbox status`.
    fn status(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<Status, sqlx::Error>> + Send;
}
