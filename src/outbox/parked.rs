//! Parked rows: listing them, requesting that they are published, and discarding them. The relay publishes; nothing
//! here does.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tidings_contract::EventId;

use super::{
    Entry, LedgerKind, Outbox, OutboxError, Store,
    store::{chunks::chunks, taken::Operation},
};

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
pub(super) use returns;

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
pub(super) use holds_up;

/// Whether a parked row is restored without a decision: by itself, or with the first row of its key.
macro_rules! goes_back {
    ($table:literal, $row:literal) => {
        concat!(
            "(",
            $crate::outbox::parked::returns!($row),
            " or coalesce((select ",
            $crate::outbox::parked::returns!("first"),
            " from ",
            $table,
            " as first where first.key = ",
            $row,
            ".key and octet_length(first.key) <= 256 and first.id < ",
            $row,
            ".id and ",
            $crate::outbox::parked::holds_up!("first."),
            " order by first.id limit 1), false))"
        )
    };
}
pub(super) use goes_back;

/// The most rows that are examined at once.
const PAGE: u32 = 1000;
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
    /// [`Outbox::parked_heads`].
    pub headers: String,
    /// The payload; serialized as text. [`Outbox::parked`] leaves it out when it has more than 4 MiB,
    /// [`Outbox::parked_heads`] always; a discarded event has all of it.
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
    pub(super) fn parameters(&self) -> (Option<i64>, Option<&str>) {
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
    fn first(self, sizes: &[ParkedSize]) -> Vec<i64> {
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
pub(super) fn kept(error: &str) -> String {
    const LONGEST: usize = 2000;
    match error.char_indices().nth(LONGEST) {
        None => error.to_owned(),
        Some((end, _)) => format!("{} ...", &error[..end]),
    }
}

impl<DB: Store> Outbox<DB> {
    /// Returns parked events after a row id, in the order of row ids; at most `limit`, and fewer when they are large.
    /// Only an empty result means that there are no more.
    ///
    /// # Errors
    /// [`OutboxError::NotMigrated`] without tables, else [`OutboxError::Database`].
    pub async fn parked(
        &self,
        selection: &ParkedSelection,
        behind: i64,
        limit: u32,
    ) -> Result<Vec<ParkedEvent>, OutboxError> {
        let page = (behind, limit);
        self.read_parked(selection, page, Extent::Shown).await
    }

    /// As [`Outbox::parked`], for lists: headers and payloads are not read.
    ///
    /// # Errors
    /// As for [`Outbox::parked`].
    pub async fn parked_heads(
        &self,
        selection: &ParkedSelection,
        behind: i64,
        limit: u32,
    ) -> Result<Vec<ParkedEvent>, OutboxError> {
        let page = (behind, limit);
        self.read_parked(selection, page, Extent::Head).await
    }

    /// As [`Outbox::parked`], for export: with the whole payloads, however large they are.
    ///
    /// # Errors
    /// As for [`Outbox::parked`].
    pub async fn parked_whole(
        &self,
        selection: &ParkedSelection,
        behind: i64,
        limit: u32,
    ) -> Result<Vec<ParkedEvent>, OutboxError> {
        let page = (behind, limit);
        self.read_parked(selection, page, Extent::Whole).await
    }

    async fn read_parked(
        &self,
        selection: &ParkedSelection,
        (mut behind, limit): (i64, u32),
        extent: Extent,
    ) -> Result<Vec<ParkedEvent>, OutboxError> {
        let names = &self.shared.names;
        let limit = limit.min(PAGE);
        let reading = async |connection: &mut DB::Connection| {
            loop {
                let sizes = DB::parked_sizes(connection, names, selection, behind, limit).await?;
                let ids = extent.first(&sizes);
                let Some(last) = ids.last() else {
                    return Ok(Vec::new());
                };
                let parked = DB::parked(connection, names, &ids, extent).await?;
                // When all of these rows were removed meanwhile, there may be more after them.
                if !parked.is_empty() {
                    return Ok(parked);
                }
                behind = *last;
            }
        };
        self.operate(Operation::One, reading).await
    }

    /// Requests that the relay publishes parked events, in the order in which they were written. Selecting one event
    /// selects all parked events of its key, because an event never overtakes an earlier one of its key. Events that
    /// are refused again stay parked, with those that follow them. Returns the number of requested events.
    ///
    /// # Errors
    /// [`OutboxError::NotMigrated`] without tables, else [`OutboxError::Database`].
    ///
    /// # Cancel safety
    /// When the future is dropped, all of it has happened, or nothing. Calling it again requests the same events again.
    pub async fn unpark(&self, selection: &ParkedSelection) -> Result<u64, OutboxError> {
        let names = &self.shared.names;
        let asking =
            async |connection: &mut DB::Connection| DB::unpark(connection, names, selection).await;
        let asked = self.operate(Operation::One, asking).await?;
        self.shared.wake.committed();
        Ok(asked)
    }

    /// Discards parked events permanently, in the order of row ids; at most `limit`, and fewer when they are large;
    /// none when there are no more. Returns the discarded events, so that the caller can store them elsewhere. Events
    /// that are parked behind a discarded one stay parked until their unpark is requested.
    ///
    /// # Errors
    /// [`OutboxError::NotMigrated`] without tables, else [`OutboxError::Database`].
    ///
    /// # Cancel safety
    /// When the future is dropped, all selected events are discarded and in the ledger, or none is. Discarded events that
    /// were not returned are lost to the caller: store them before, as [`Outbox::parked_whole`] returns them.
    pub async fn discard(
        &self,
        selection: &ParkedSelection,
        limit: u32,
    ) -> Result<Vec<ParkedEvent>, OutboxError> {
        let limit = limit.min(PAGE);
        let discarding = async |connection: &mut DB::Connection| {
            let names = &self.shared.names;
            let sizes = DB::parked_sizes(connection, names, selection, i64::MIN, limit).await?;
            let ids = Extent::Whole.first(&sizes);
            self.give_up(connection, &ids, Extent::Whole).await
        };
        Ok(told(self.operate(Operation::Several, discarding).await?))
    }

    /// Discards these rows, as far as they are parked; returns them without headers and payloads.
    ///
    /// # Errors
    /// As for [`Outbox::discard`].
    ///
    /// # Cancel safety
    /// When the future is dropped, all of the rows are discarded and in the ledger, or none is.
    pub async fn discard_rows(&self, ids: &[i64]) -> Result<Vec<ParkedEvent>, OutboxError> {
        let discarding = async |connection: &mut DB::Connection| {
            self.give_up(connection, ids, Extent::Head).await
        };
        Ok(told(self.operate(Operation::Several, discarding).await?))
    }

    async fn give_up(
        &self,
        connection: &mut DB::Connection,
        ids: &[i64],
        extent: Extent,
    ) -> Result<Vec<ParkedEvent>, sqlx::Error> {
        let names = &self.shared.names;
        let discarded = DB::discard(connection, names, ids, extent).await?;
        // Without the entries, `verify` could report the events as missing.
        let dead_lettered: Vec<Entry> = discarded.iter().map(dead_lettered).collect();
        DB::record(connection, names, &dead_lettered, LedgerKind::Discarded).await?;
        Ok(discarded)
    }
}

/// Logs the discarded events, and returns them in the order of row ids.
fn told(mut discarded: Vec<ParkedEvent>) -> Vec<ParkedEvent> {
    discarded.sort_by_key(|event| event.id);
    discarded
        .iter_mut()
        .for_each(|event| event.is_returning = false);
    for ParkedEvent {
        id,
        event,
        name,
        key,
        ..
    } in &discarded
    {
        tracing::warn!(row = id, event.id = %event, event.name = name, key, "parked event discarded");
    }
    discarded
}

/// The ledger entry of a discarded event.
fn dead_lettered(event: &ParkedEvent) -> Entry {
    Entry {
        first_id: event.id,
        last_id: event.id,
        events: 0,
        stream: String::new(),
        incarnation: String::new(),
        first_sequence: 0,
        last_sequence: 0,
        way: LedgerKind::Discarded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_cut_between_two_characters() {
        assert_eq!(kept("too large"), "too large");
        let long = kept(&"\u{1f600}".repeat(5000));
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
