//! What the outbox asks of a database. Each database answers in a file of its own; nothing here knows
//! which one it is.

use std::{borrow::Cow, collections::BTreeMap, fmt::Debug, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Connection, Database, SqlSafeStr, SqlStr};
use tidings_contract::{Envelope, EventId};

use super::{HeldSlot, SchemaError, Status, delayed::Schedule, origin::Origin};

/// A database that can hold an outbox. Sealed: Postgres and SQLite.
pub trait Store: Database<Connection: Send> + Statements {}

impl<DB: Statements> Store for DB {}

/// The schema, or the prefix, that the tables have.
#[derive(Debug, Clone)]
pub struct Names {
    schema: Cow<'static, str>,
    /// Transactions share connections with those of other clients.
    is_pooled: bool,
}

/// How far the relay is, in the words of one database.
pub trait Cursor: Clone + Debug + Send + Sync + 'static {}

impl<T: Clone + Debug + Send + Sync + 'static> Cursor for T {}

/// The statements of one database. Every time is the database's clock.
pub trait Statements: Schedule {
    /// The word for logs and messages.
    const KIND: &'static str;
    /// How a transaction that writes begins.
    const BEGIN: &'static str;
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
    /// false when the epoch is over.
    fn checkpoint(
        connection: &mut Self::Connection,
        names: &Names,
        tenure: &Tenure,
        checkpoint: &Checkpoint<Self::Cursor>,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

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

    /// Puts rows aside with their errors. A row that is parked already stays as it is.
    fn park(
        connection: &mut Self::Connection,
        names: &Names,
        rows: &[Parked],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// The keys of parked rows, each with the id of its first one.
    fn parked_keys(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<Vec<(String, i64)>, sqlx::Error>> + Send;

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
}

/// The bounds of a page.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// At most this many rows.
    pub rows: usize,
    /// No further row once this many bytes of payload are there.
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
    /// Everything that was committed before it was read lies before its end.
    pub is_whole: bool,
    /// How long until the next delayed event is due, when that was asked for and there is one.
    pub due_in: Option<Duration>,
}

/// A row of the outbox.
#[derive(Debug, Clone)]
pub struct Row {
    /// The place in the outbox.
    pub id: i64,
    /// When it was written.
    pub at: DateTime<Utc>,
    /// The event's id.
    pub event: EventId,
    /// The event's name.
    pub name: String,
    /// The payload's version.
    pub version: i32,
    /// The event's key.
    pub key: Option<String>,
    /// The headers, as JSON.
    pub headers: String,
    /// The payload.
    pub payload: Bytes,
}

/// A row that is put aside.
#[derive(Debug, Clone)]
pub struct Parked {
    /// The row.
    pub row: Row,
    /// Why.
    pub error: String,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            schema: Cow::Borrowed(DEFAULT_SCHEMA),
            is_pooled: false,
        }
    }
}

const DEFAULT_SCHEMA: &str = "tidings";

impl Names {
    pub(super) fn new(schema: &str) -> Result<Self, SchemaError> {
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let plain = schema.starts_with(|c: char| c.is_ascii_lowercase())
            && schema.len() <= 40
            && schema.bytes().all(letter);
        if !plain {
            return Err(SchemaError(schema.to_owned()));
        }
        Ok(Self {
            schema: Cow::Owned(schema.to_owned()),
            is_pooled: false,
        })
    }

    /// The same names behind a pooler that gives each transaction another connection.
    pub(super) fn pooled(self, is_pooled: bool) -> Self {
        Self { is_pooled, ..self }
    }

    pub(super) fn is_pooled(&self) -> bool {
        self.is_pooled
    }

    pub(super) fn schema(&self) -> &str {
        &self.schema
    }

    /// A statement in the names of this outbox. `separator` is what stands between schema and table.
    pub(super) fn sql(&self, text: &'static str, separator: char) -> SqlStr {
        if self.schema == DEFAULT_SCHEMA {
            return SqlStr::from_static(text);
        }
        // Safe: the schema is a plain identifier, which `new` has checked.
        AssertSqlSafe(self.text(text, separator)).into_sql_str()
    }

    /// The same as text, for printing.
    pub(super) fn text(&self, text: &str, separator: char) -> String {
        text.replace(
            &format!("{DEFAULT_SCHEMA}{separator}"),
            &format!("{}{separator}", self.schema),
        )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_identifiers_become_part_of_a_statement() {
        for schema in [
            "",
            "1a",
            "a.b",
            "a b",
            "a\"b",
            "A",
            "a;drop",
            &"a".repeat(41),
        ] {
            assert!(Names::new(schema).is_err(), "{schema:?}");
        }
        let names = Names::new("shop_events").unwrap();
        assert_eq!(
            names.sql("select 1 from tidings.outbox", '.').as_str(),
            "select 1 from shop_events.outbox"
        );
    }
}
