//! The values that the statements of a database take and return. Never runs a statement.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tidings_contract::EventId;

use super::{ledger::LedgerKind, parked::BlockedOn, row::Row};

/// The holder of a lease.
#[derive(Debug, Clone)]
pub struct Tenure {
    /// The owner.
    pub owner: String,
    /// The epoch of its lease.
    pub epoch: i64,
    /// How long the lease lasts from each renewal.
    pub lease: Duration,
}

/// What a new owner of the lease receives.
#[derive(Debug, Clone)]
pub struct Claim<C> {
    /// The epoch that began.
    pub epoch: i64,
    /// Every row before it is confirmed or parked.
    pub cursor: C,
    /// How far each stream was when the cursor was written.
    pub streams: Positions,
    /// The issues that the relay last recorded, as JSON.
    pub issues: String,
}

/// How far the ledger goes, per stream.
pub(in crate::outbox) type Positions = BTreeMap<String, Position>;

/// How far the ledger goes in one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// When the stream was created, as the server writes it.
    pub incarnation: String,
    /// The last sequence that is in the ledger.
    pub sequence: u64,
    /// The last event that was confirmed; its sequence may be higher than `sequence`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Last>,
    /// Every event that the relay stored before this time, by the server's clock, is in the ledger.
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
    pub(in crate::outbox) fn new(incarnation: String, sequence: u64) -> Self {
        Self {
            incarnation,
            sequence,
            last: None,
            since: None,
        }
    }

    /// The highest sequence that the stream is known to have reached.
    pub(crate) fn known(&self) -> u64 {
        self.sequence.max(self.last.map_or(0, |last| last.sequence))
    }
}

/// How far the relay is, and what was confirmed since the last checkpoint.
#[derive(Debug, Clone)]
pub struct Checkpoint<C> {
    /// Every row before it is confirmed or parked; `None` leaves the cursor where it is.
    pub cursor: Option<C>,
    /// How far each stream is.
    pub streams: Positions,
    /// The new ledger entries.
    pub ledger: Vec<Entry>,
    /// The parked rows that were published.
    pub returned: Vec<i64>,
    /// The relay's issues, as JSON.
    pub issues: String,
}

/// What a checkpoint finds among the parked rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// An unpark was requested: before this checkpoint, or by it, which the next one knows at the latest.
    pub is_asked: bool,
    /// Some rows wait for a stream or subject.
    pub is_waiting: bool,
}

/// What parked rows wait for.
#[derive(Debug, Clone, Default)]
pub struct Waiting {
    /// An unpark was requested.
    pub is_asked: bool,
    /// What the other rows wait for.
    pub reasons: Vec<Reason>,
}

/// A stream or subject that parked rows wait for.
#[derive(Debug, Clone)]
pub struct Reason {
    /// The stream or subject.
    pub blocked_on: BlockedOn,
    /// The name of the first event that waits for it.
    pub name: String,
    /// Why that event was parked.
    pub error: String,
}

impl Waiting {
    /// Whether rows may have to be restored.
    pub(in crate::outbox) fn is_something(&self) -> bool {
        self.is_asked || !self.reasons.is_empty()
    }

    /// Adds a row of the statement; a row without a reason means that an unpark was requested. An unknown reason counts
    /// as none: its rows wait for an unpark request.
    pub(in crate::outbox) fn add(
        &mut self,
        blocked_on: Option<String>,
        name: Option<String>,
        error: Option<String>,
    ) {
        let Some(blocked_on) = blocked_on else {
            self.is_asked = true;
            return;
        };
        match blocked_on.parse() {
            Ok(blocked_on) => self.reasons.push(Reason {
                blocked_on,
                name: name.unwrap_or_default(),
                error: error.unwrap_or_default(),
            }),
            Err(error) => tracing::debug!(%error, "parked row cause unknown"),
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
    /// The number of events.
    pub events: i32,
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

/// The bounds of a page.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// At most this many rows.
    pub rows: usize,
    /// A larger payload is not read: the database only reports that it is larger.
    pub bytes: usize,
    /// Whether to return when the next delayed event is due.
    pub with_due: bool,
}

/// A page of the outbox.
#[derive(Debug)]
pub struct Page<C> {
    /// The rows, in the order of their ids.
    pub rows: Vec<Row>,
    /// Where the next page begins.
    pub next: C,
    /// The limit on bytes has ended the page.
    pub is_cut: bool,
    /// The page is known to be the last one: every row that was committed before it was read lies before its end. It may
    /// be the last one without that being known; the next page is then empty, and whole.
    pub is_whole: bool,
    /// How long until the next delayed event is due, when that was requested and there is one.
    pub due_in: Option<Duration>,
}

/// A row to park.
#[derive(Debug, Clone)]
pub struct Parked {
    /// The row.
    pub row: Row,
    /// Why it is parked.
    pub error: String,
    /// What it waits for, when it is restored by itself.
    pub blocked_on: Option<BlockedOn>,
    /// It has no error of its own: it follows another parked row of its key.
    pub follows: bool,
}

impl Parked {
    /// Whether the later rows of its key wait with it. They do not when it waits for a stream, because every row of
    /// that stream waits.
    pub(in crate::outbox) fn holds_up(&self) -> bool {
        !matches!(self.blocked_on, Some(BlockedOn::Stream(_)))
    }
}

pub(in crate::outbox) fn positions_from(text: &str) -> Result<Positions, sqlx::Error> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(error.into()))
}

pub(in crate::outbox) fn positions_text(positions: &Positions) -> Result<String, sqlx::Error> {
    serde_json::to_string(positions).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// A sequence in the integer type of the databases.
pub(in crate::outbox) fn sequence(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

/// A count from the integer type of the databases.
pub(in crate::outbox) fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}
