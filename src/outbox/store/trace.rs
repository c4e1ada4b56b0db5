//! What the tables record of single events, and the statements about them. Only reads.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::Database;
use tidings_contract::{Envelope, EventId, wire};

use super::{Names, ledger::LedgerKind};

/// Which events are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted<'a> {
    Event(EventId),
    Key(&'a str),
    Correlation(&'a str),
}

/// Which rows to read: the newest ones that match.
#[derive(Debug)]
pub struct TraceQuery {
    /// The event's id; for a correlation id that is an event id, the event that began the correlation.
    pub event: Option<EventId>,
    /// The event's key.
    pub key: Option<String>,
    /// A text that stands in the headers of the wanted events, and perhaps of other events.
    pub needle: Option<String>,
    /// The earliest time at which a row was written.
    pub since: Option<DateTime<Utc>>,
    /// The most rows to read.
    pub limit: usize,
    /// The correlation id, when that is wanted.
    pub correlation: Option<String>,
}

/// A row of an event in one of the outbox's tables.
#[derive(Debug, Clone, PartialEq)]
pub struct TracedRow {
    /// The row id in that table.
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
    /// The table, and what it records.
    pub state: TracedState,
}

/// Where a row is.
#[derive(Debug, Clone, PartialEq)]
pub enum TracedState {
    /// In the log.
    Log {
        /// Whether the relay's cursor has passed it.
        is_passed: bool,
    },
    /// Parked.
    Parked {
        /// When it was parked.
        at: DateTime<Utc>,
        /// Why it was parked.
        error: String,
        /// What it waits for.
        blocked_on: Option<String>,
        /// When its unpark was requested.
        unpark_requested_at: Option<DateTime<Utc>>,
        /// Whether it is restored without a decision.
        is_returning: bool,
    },
    /// Not due yet.
    Delayed {
        /// When it is due.
        due: DateTime<Utc>,
    },
}

/// An entry of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracedBatch {
    /// When the confirmation was recorded.
    pub at: DateTime<Utc>,
    /// The epoch of the relay's lease.
    pub epoch: i64,
    /// The number of events.
    pub events: i32,
    /// The lowest row id in the outbox.
    pub first_id: i64,
    /// The highest row id in the outbox.
    pub last_id: i64,
    /// The stream.
    pub stream: String,
    /// The stream's incarnation.
    pub incarnation: String,
    /// The sequence of the first event.
    pub first_sequence: u64,
    /// The sequence of the last event.
    pub last_sequence: u64,
    /// How the events came into the stream.
    pub kind: LedgerKind,
}

/// The statements about single events.
pub trait TraceStatements: Database<Connection: Send> {
    /// Returns the rows that may match, newest first.
    fn rows_of(
        connection: &mut Self::Connection,
        names: &Names,
        asked: &TraceQuery,
    ) -> impl Future<Output = Result<Vec<TracedRow>, sqlx::Error>> + Send;

    /// Returns the ledger entries whose range contains a row id of the outbox, in the order of their times, including
    /// those of discarded rows.
    fn batches_of(
        connection: &mut Self::Connection,
        names: &Names,
        id: i64,
    ) -> impl Future<Output = Result<Vec<TracedBatch>, sqlx::Error>> + Send;

    /// Returns the ledger entries whose range contains a sequence of a stream's incarnation.
    fn batches_at(
        connection: &mut Self::Connection,
        names: &Names,
        stream: &str,
        incarnation: &str,
        sequence: i64,
    ) -> impl Future<Output = Result<Vec<TracedBatch>, sqlx::Error>> + Send;

    /// Returns the scopes in which the inbox remembers an event, and, when it was dead-lettered instead of handled, the
    /// reason.
    fn scopes_of(
        connection: &mut Self::Connection,
        names: &Names,
        event: EventId,
    ) -> impl Future<Output = Result<Vec<(String, Option<String>)>, sqlx::Error>> + Send;

    /// Returns when the oldest row of the log was written.
    fn oldest(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<Option<DateTime<Utc>>, sqlx::Error>> + Send;
}

impl TraceQuery {
    pub(crate) fn of(wanted: Wanted<'_>, since: Option<DateTime<Utc>>, limit: usize) -> Self {
        let mut asked = Self {
            event: None,
            key: None,
            needle: None,
            since,
            limit,
            correlation: None,
        };
        match wanted {
            Wanted::Event(event) => asked.event = Some(event),
            Wanted::Key(key) => asked.key = Some(key.to_owned()),
            Wanted::Correlation(id) => {
                // JSON can escape these characters in several ways, so the search is for the header's name.
                let is_plain = id
                    .chars()
                    .all(|c| c.is_ascii_graphic() && c != '"' && c != '\\' && c != '/');
                let needle = if is_plain { id } else { "orrelation" };
                asked.needle = Some(needle.to_owned());
                // An event without a correlation id uses its own id.
                asked.event = id.parse().ok();
                asked.correlation = Some(id.to_owned());
            }
        }
        asked
    }

    /// Whether a row matches.
    pub(in crate::outbox) fn means(&self, row: &TracedRow) -> bool {
        match &self.correlation {
            Some(wanted) => row
                .envelope()
                .is_some_and(|e| e.correlation_id() == *wanted),
            None => true,
        }
    }
}

impl TracedRow {
    /// Returns the event, without its payload; nothing when a foreign writer has written a row that is not an event.
    pub(crate) fn envelope(&self) -> Option<Envelope> {
        let (version, key) = (self.version.unsigned_abs(), self.key.as_deref());
        let (name, headers) = (&self.name, &self.headers);
        wire::from_stored(self.event, name, version, key, headers, Bytes::new()).ok()
    }
}
