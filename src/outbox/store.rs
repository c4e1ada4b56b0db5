//! What the outbox asks of a database. Each database answers in a file of its own; nothing here knows
//! which one it is.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Debug,
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, Database};
use tidings_contract::{Envelope, EventId};

use super::{
    HeldSlot, ParkedEvent, ParkedSelection, Status,
    contents::Contents,
    delayed::Schedule,
    home::HomeKeeping,
    inbox::Remember,
    link::Session,
    mend::{Mending, Way},
    origin::Origin,
    parked::WaitsFor,
    relayed::Archive,
    standing::LossKeeping,
    traced::Trail,
};

pub(super) use super::{
    names::Names,
    row::{Row, Rows},
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

    /// Parked rows in the order of ids, behind an id.
    fn parked(
        connection: &mut Self::Connection,
        names: &Names,
        selection: &ParkedSelection,
        behind: i64,
        limit: u32,
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
        selection: &ParkedSelection,
        limit: u32,
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

    /// Has statements on a connection of its own wait for a lock no longer than this, where that is no matter of the
    /// connection's options.
    fn bound_locks(
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

    /// The figures of `tidings outbox status`.
    fn status(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<Status, sqlx::Error>> + Send;
}

/// What came of freeing old rows.
#[derive(Debug, Default)]
pub struct Reclaimed {
    /// What was freed, if anything.
    pub freed: Option<String>,
    /// What should be free, and who holds it.
    pub held: Vec<HeldSlot>,
    /// What somebody has to do so that the storage fits the retention.
    pub advice: Option<String>,
}

/// How long the ledger says where an event went: longer than any outbox keeps it.
pub(super) const LEDGER_RETENTION: Duration = Duration::from_secs(14 * 86_400);

/// A step of the schema.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// The name, as the file has it.
    pub name: &'static str,
    /// The statements, in the names of the default schema.
    pub sql: &'static str,
}

/// Who holds the lease.
#[derive(Debug, Clone)]
pub struct Tenure {
    /// The owner.
    pub owner: String,
    /// The epoch of its lease.
    pub epoch: i64,
    /// How long the lease lasts from each renewal.
    pub lease: Duration,
}

/// What a new owner gets to know.
#[derive(Debug, Clone)]
pub struct Claim<C> {
    /// The epoch that began.
    pub epoch: i64,
    /// Everything before it is confirmed or parked.
    pub cursor: C,
    /// Where each stream was when that was written.
    pub streams: Positions,
    /// What troubled the relay when it last said so, as JSON.
    pub troubles: String,
}

/// Per stream, how far the ledger goes.
pub(in crate::outbox) type Positions = BTreeMap<String, Position>;

/// How far the ledger goes in one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// When the stream was created, in the server's words.
    pub incarnation: String,
    /// The last sequence that is in the ledger.
    pub sequence: u64,
    /// The last event that was confirmed; it may lie behind the sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Last>,
    /// No event of the relay that is not in the ledger was stored before, by the server's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
}

/// Where an event was confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// The sequence in the stream.
    pub sequence: u64,
    /// The event.
    pub event: EventId,
}

impl Position {
    pub(super) fn new(incarnation: String, sequence: u64) -> Self {
        Self {
            incarnation,
            sequence,
            last: None,
            since: None,
        }
    }

    /// How far the stream is known to have gone.
    pub(crate) fn known(&self) -> u64 {
        self.sequence.max(self.last.map_or(0, |last| last.sequence))
    }
}

/// How far the relay is, and what was confirmed since it last said so.
#[derive(Debug, Clone)]
pub struct Checkpoint<C> {
    /// Everything before it is confirmed or parked; `None` leaves it where it is.
    pub cursor: Option<C>,
    /// Where each stream is.
    pub streams: Positions,
    /// The new entries.
    pub ledger: Vec<Entry>,
    /// The parked rows that were published.
    pub returned: Vec<i64>,
    /// What troubles the relay, as JSON.
    pub troubles: String,
}

/// What a checkpoint finds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Parked rows are asked for.
    pub is_asked: bool,
    /// Parked rows wait for something.
    pub is_waiting: bool,
}

/// What parked rows wait for.
#[derive(Debug, Clone, Default)]
pub struct Waiting {
    /// Some are asked for.
    pub is_asked: bool,
    /// What the others wait for.
    pub reasons: Vec<Reason>,
}

/// Something that parked rows wait for.
#[derive(Debug, Clone)]
pub struct Reason {
    /// What it is.
    pub waits_for: WaitsFor,
    /// The name of the first event that waits for it.
    pub name: String,
    /// Why that one was put aside.
    pub error: String,
}

impl Waiting {
    /// Whether something may have to go back.
    pub(super) fn is_something(&self) -> bool {
        self.is_asked || !self.reasons.is_empty()
    }

    /// A row of the statement; without a reason it says that rows are asked for. A reason that nobody knows is
    /// none: its rows wait until they are asked for.
    pub(super) fn add(
        &mut self,
        waits_for: Option<String>,
        name: Option<String>,
        error: Option<String>,
    ) {
        let Some(waits_for) = waits_for else {
            self.is_asked = true;
            return;
        };
        match waits_for.parse() {
            Ok(waits_for) => self.reasons.push(Reason {
                waits_for,
                name: name.unwrap_or_default(),
                error: error.unwrap_or_default(),
            }),
            Err(error) => tracing::debug!(%error, "a parked row waits for nothing that is known"),
        }
    }
}

/// One confirmed batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The lowest id of the batch.
    pub first_id: i64,
    /// The highest id of the batch.
    pub last_id: i64,
    /// How many events.
    pub events: i32,
    /// The stream.
    pub stream: String,
    /// The stream's incarnation.
    pub incarnation: String,
    /// The sequence of the first event.
    pub first_sequence: u64,
    /// The sequence of the last event.
    pub last_sequence: u64,
    /// How they came there.
    pub way: Way,
}

/// The bounds of a page.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// At most this many rows.
    pub rows: usize,
    /// No payload of more bytes is read: the database says only that it has more.
    pub bytes: usize,
    /// Whether to say when the next delayed event is due.
    pub with_due: bool,
}

/// A page of the outbox.
#[derive(Debug)]
pub struct Page<C> {
    /// The rows, in the order of their ids.
    pub rows: Vec<Row>,
    /// Where the next page begins.
    pub next: C,
    /// The bound on bytes has ended it.
    pub is_cut: bool,
    /// Everything that was committed before it was read lies before its end.
    pub is_whole: bool,
    /// How long until the next delayed event is due, when that was asked for and there is one.
    pub due_in: Option<Duration>,
}

/// A row that is put aside.
#[derive(Debug, Clone)]
pub struct Parked {
    /// The row.
    pub row: Row,
    /// Why.
    pub error: String,
    /// What it waits for, to go back by itself.
    pub waits_for: Option<WaitsFor>,
    /// It is parked for no reason of its own: it follows another one under its key.
    pub follows: bool,
}

impl Parked {
    /// Whether what follows it under its key waits: not behind what waits for a stream, since all of that
    /// stream does.
    pub(super) fn holds_up(&self) -> bool {
        !matches!(self.waits_for, Some(WaitsFor::Stream(_)))
    }
}

pub(super) fn positions_from(text: &str) -> Result<Positions, sqlx::Error> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(error.into()))
}

pub(super) fn positions_text(positions: &Positions) -> Result<String, sqlx::Error> {
    serde_json::to_string(positions).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// A sequence as the databases hold it.
pub(super) fn sequence(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

/// A count as the databases give it.
pub(super) fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}
