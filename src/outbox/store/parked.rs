//! Parked rows as the database stores them, and the statements about them. Never decides that a row is parked.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::Database;
use tidings_contract::EventId;

use super::{Bound, Names, Parked, Rows, Waiting, chunks::chunks};

/// Whether a parked row is restored by itself: it waits for a stream or a subject, or its unpark was requested.
macro_rules! returns {
    ($row:literal) => {
        concat!(
            "(",
            $row,
            ".blocked_on is not null or ",
            $row,
            ".unpark_requested_at is not null)"
        )
    };
}
pub(in crate::outbox) use returns;

/// Whether later rows of its key wait for a parked row. They do not when it waits for a stream, because all rows of
/// that stream wait.
macro_rules! holds_up {
    ($of:literal) => {
        concat!(
            "(",
            $of,
            "blocked_on is null or ",
            $of,
            "blocked_on not like 'stream %')"
        )
    };
}
pub(in crate::outbox) use holds_up;

/// Whether a parked row is restored without a decision: by itself, or with the first row of its key.
macro_rules! is_returning {
    ($table:literal, $row:literal) => {
        concat!(
            "(",
            $crate::outbox::store::parked::returns!($row),
            " or coalesce((select ",
            $crate::outbox::store::parked::returns!("first"),
            " from ",
            $table,
            " as first where first.key = ",
            $row,
            ".key and octet_length(first.key) <= 256 and first.id < ",
            $row,
            ".id and ",
            $crate::outbox::store::parked::holds_up!("first."),
            " order by first.id limit 1), false))"
        )
    };
}
pub(in crate::outbox) use is_returning;

/// A list leaves out a larger payload, and larger headers (in bytes).
const LONGEST_SHOWN: usize = 4 * 1024 * 1024;

const LONGEST_HEADERS: usize = 400_000;

/// A parked event. Of a row that cannot be read fully, it holds what can be read: an event id of zeros, the nearest
/// time in the years 1 to 9999, the beginning of a name or key that is too long. Its error names the flaw.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ParkedEvent {
    /// The row id in the outbox.
    pub id: i64,
    /// The event's id.
    pub event: EventId,
    /// The event's name.
    pub name: String,
    /// The payload's version.
    pub version: i32,
    /// The event's key.
    pub key: Option<String>,
    /// The headers, a JSON object of texts; left out when they have more than 400,000 bytes, and by
    /// [`Outbox::parked_heads`](crate::Outbox::parked_heads).
    pub headers: String,
    /// The payload; serialized as text. [`Outbox::parked`](crate::Outbox::parked) leaves it out when it has more than
    /// 4 MiB, [`Outbox::parked_heads`](crate::Outbox::parked_heads) always; a discarded event has all of it.
    #[serde(serialize_with = "as_text")]
    pub payload: Vec<u8>,
    /// The size of the payload in bytes.
    pub payload_bytes: u64,
    /// When it was written.
    pub at: DateTime<Utc>,
    /// When it was parked.
    pub parked_at: DateTime<Utc>,
    /// Why it was parked.
    pub error: String,
    /// What it waits for, to be restored by itself: `stream EVENTS`, `subject user.created`.
    pub blocked_on: Option<String>,
    /// When an operator requested that it is published.
    pub unpark_requested_at: Option<DateTime<Utc>>,
    /// Whether it is restored without a decision: it waits for a stream or subject, its unpark was requested, or it
    /// follows such an event under its key. False once it is discarded.
    pub is_returning: bool,
}

fn as_text<S: serde::Serializer>(payload: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(payload))
}

/// A selection of parked events.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParkedSelection {
    /// All of them.
    All,
    /// Those of one key.
    Key(String),
    /// One event, by its row id in the outbox.
    Id(i64),
}

impl ParkedSelection {
    /// The parameters of the statements: an id, a key, or neither.
    pub(in crate::outbox) fn parameters(&self) -> (Option<i64>, Option<&str>) {
        match self {
            Self::All => (None, None),
            Self::Key(key) => (None, Some(key)),
            Self::Id(id) => (Some(*id), None),
        }
    }
}

/// How much of a parked row is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Everything except headers and payload.
    Head,
    /// Everything that is not too large to be shown.
    Shown,
    /// The same with the whole payload, however large it is.
    Whole,
}

/// The sizes of a parked row's parts, which are known without reading them.
#[derive(Debug, Clone, Copy)]
pub struct ParkedSize {
    /// The row id in the outbox.
    pub id: i64,
    /// The size of the payload in bytes.
    pub payload: usize,
    /// The size of the headers in bytes.
    pub headers: usize,
}

impl Extent {
    /// How many bytes are read of a row.
    fn bytes(self, size: &ParkedSize) -> usize {
        let up_to = |most: usize, bytes: usize| if bytes > most { 0 } else { bytes };
        let headers = up_to(LONGEST_HEADERS, size.headers);
        match self {
            Self::Head => 0,
            Self::Shown => up_to(LONGEST_SHOWN, size.payload) + headers,
            Self::Whole => size.payload + headers,
        }
    }

    /// Returns the first of these rows: as many as may be in memory at once, at least one.
    pub(in crate::outbox) fn first(self, sizes: &[ParkedSize]) -> Vec<i64> {
        let first = chunks(sizes, |size| self.bytes(size)).next();
        first.into_iter().flatten().map(|size| size.id).collect()
    }
}

/// What a row waits for when it is restored by itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockedOn {
    /// A stream that accepts no events at present.
    Stream(String),
    /// A subject that no stream takes, or that the relay has no right to publish to.
    Subject(String),
}

const STREAM: &str = "stream ";

const SUBJECT: &str = "subject ";

impl fmt::Display for BlockedOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(name) => write!(f, "{STREAM}{name}"),
            Self::Subject(name) => write!(f, "{SUBJECT}{name}"),
        }
    }
}

impl FromStr for BlockedOn {
    type Err = sqlx::Error;

    fn from_str(text: &str) -> Result<Self, sqlx::Error> {
        let stream = |text: &str| text.strip_prefix(STREAM).map(|s| Self::Stream(s.into()));
        let subject = |text: &str| text.strip_prefix(SUBJECT).map(|s| Self::Subject(s.into()));
        let known = stream(text).or_else(|| subject(text));
        known.ok_or_else(|| {
            sqlx::Error::Decode(format!("{text:?} is neither a subject nor a stream").into())
        })
    }
}

/// Cuts an error to the length that a table stores.
pub(in crate::outbox) fn cut_error(error: &str) -> String {
    const LONGEST: usize = 2000;
    match error.char_indices().nth(LONGEST) {
        None => error.to_owned(),
        Some((end, _)) => format!("{} ...", &error[..end]),
    }
}

/// The statements about parked rows.
pub trait ParkedStatements: Database<Connection: Send> {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_cut_between_two_characters() {
        assert_eq!(cut_error("too large"), "too large");
        let long = cut_error(&"\u{1f600}".repeat(5000));
        assert_eq!(long.chars().count(), 2004);
    }

    #[test]
    fn the_blocker_of_a_row_is_read_as_it_was_written() {
        for text in ["stream EVENTS", "subject user.created"] {
            assert_eq!(text.parse::<BlockedOn>().unwrap().to_string(), text);
        }
        assert!("EVENTS".parse::<BlockedOn>().is_err());
    }
}
