//! What the statements of a database take and give. Never runs one.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tidings_contract::EventId;

use crate::outbox::{HeldSlot, mend::Way, parked::WaitsFor, row::Row};

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
pub(in crate::outbox) const LEDGER_RETENTION: Duration = Duration::from_secs(14 * 86_400);

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
    pub(in crate::outbox) fn new(incarnation: String, sequence: u64) -> Self {
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
    pub(in crate::outbox) fn is_something(&self) -> bool {
        self.is_asked || !self.reasons.is_empty()
    }

    /// A row of the statement; without a reason it says that rows are asked for. A reason that nobody knows is
    /// none: its rows wait until they are asked for.
    pub(in crate::outbox) fn add(
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
    pub(in crate::outbox) fn holds_up(&self) -> bool {
        !matches!(self.waits_for, Some(WaitsFor::Stream(_)))
    }
}

pub(in crate::outbox) fn positions_from(text: &str) -> Result<Positions, sqlx::Error> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(error.into()))
}

pub(in crate::outbox) fn positions_text(positions: &Positions) -> Result<String, sqlx::Error> {
    serde_json::to_string(positions).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// A sequence as the databases hold it.
pub(in crate::outbox) fn sequence(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

/// A count as the databases give it.
pub(in crate::outbox) fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}
