//! What an outbox knows of single events: their rows, the batches that carried them, and the subscribers that have
//! handled them by its inbox. Only reads.

use std::collections::HashSet;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::Database;
use tidings_contract::{Envelope, EventId, wire};

use crate::outbox::{
    LedgerKind, Outbox, OutboxError, Store,
    parked::Extent,
    store::{names::Names, taken::Operation},
};

/// Which events are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted<'a> {
    Event(EventId),
    Key(&'a str),
    Correlation(&'a str),
}

/// Which rows to read: the newest ones that match.
#[derive(Debug)]
pub struct Asked {
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
    pub spot: Spot,
}

/// Where a row is.
#[derive(Debug, Clone, PartialEq)]
pub enum Spot {
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
    pub way: LedgerKind,
}

/// The ledger's record of one row.
#[derive(Debug, Default)]
pub(crate) struct Ledgered {
    /// The batches that may have contained it.
    pub(crate) batches: Vec<TracedBatch>,
    /// When it was discarded while parked.
    pub(crate) discarded_at: Option<DateTime<Utc>>,
}

impl Ledgered {
    /// `all` are the entries whose range contains the row. A range may also contain rows that were not in its batch, so
    /// for a discarded row only dense ranges count. It may be in one: no stream accepts a parked row, but a forced
    /// republish may have stored it later.
    fn of(id: i64, mut all: Vec<TracedBatch>) -> Self {
        let is_of_row = |one: &TracedBatch| one.way == LedgerKind::Discarded && one.first_id == id;
        let discarded_at = all.iter().find(|one| is_of_row(one)).map(|one| one.at);
        all.retain(|one| {
            let rows = i128::from(one.last_id) - i128::from(one.first_id) + 1;
            let is_dense = rows == i128::from(one.events);
            one.way != LedgerKind::Discarded && (discarded_at.is_none() || is_dense)
        });
        Self {
            batches: all,
            discarded_at,
        }
    }
}

/// A position in a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spotted<'a> {
    pub(crate) stream: &'a str,
    pub(crate) incarnation: &'a str,
    pub(crate) sequence: u64,
}

/// The statements about single events.
pub trait Trail: Database<Connection: Send> {
    /// Returns the rows that may match, newest first.
    fn rows_of(
        connection: &mut Self::Connection,
        names: &Names,
        asked: &Asked,
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

impl Asked {
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

impl<DB: Store> Outbox<DB> {
    pub(crate) async fn rows_of(&self, asked: &Asked) -> Result<Vec<TracedRow>, OutboxError> {
        let names = &self.shared.names;
        self.operate(Operation::One, async |connection| {
            let mut rows = DB::rows_of(connection, names, asked).await?;
            let is_parked = |row: &&TracedRow| matches!(row.spot, Spot::Parked { .. });
            let parked: Vec<i64> = rows.iter().filter(is_parked).map(|row| row.id).collect();
            if !parked.is_empty() {
                let parked = DB::parked(connection, names, &parked, Extent::Head).await?;
                let returning: HashSet<i64> = parked
                    .iter()
                    .filter(|row| row.is_returning)
                    .map(|row| row.id)
                    .collect();
                for row in &mut rows {
                    if let Spot::Parked { is_returning, .. } = &mut row.spot {
                        *is_returning = returning.contains(&row.id);
                    }
                }
            }
            Ok(rows)
        })
        .await
    }

    pub(crate) async fn batches_of(&self, id: i64) -> Result<Ledgered, OutboxError> {
        let names = &self.shared.names;
        let all = self.operate(Operation::One, async |connection| {
            DB::batches_of(connection, names, id).await
        });
        Ok(Ledgered::of(id, all.await?))
    }

    pub(crate) async fn batches_at(
        &self,
        place: Spotted<'_>,
    ) -> Result<Vec<TracedBatch>, OutboxError> {
        let names = &self.shared.names;
        let sequence = crate::outbox::store::sequence(place.sequence);
        let (stream, incarnation) = (place.stream, place.incarnation);
        self.operate(Operation::One, async |connection| {
            DB::batches_at(connection, names, stream, incarnation, sequence).await
        })
        .await
    }

    pub(crate) async fn scopes_of(
        &self,
        event: EventId,
    ) -> Result<Vec<(String, Option<String>)>, OutboxError> {
        let names = &self.shared.names;
        self.operate(Operation::One, async |connection| {
            DB::scopes_of(connection, names, event).await
        })
        .await
    }

    pub(crate) async fn oldest(&self) -> Result<Option<DateTime<Utc>>, OutboxError> {
        let names = &self.shared.names;
        self.operate(Operation::One, async |connection| {
            DB::oldest(connection, names).await
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(first_id: i64, last_id: i64, events: i32, way: LedgerKind) -> TracedBatch {
        TracedBatch {
            at: DateTime::UNIX_EPOCH,
            epoch: 0,
            events,
            first_id,
            last_id,
            stream: "EVENTS".into(),
            incarnation: "1".into(),
            first_sequence: 1,
            last_sequence: 3,
            way,
        }
    }

    #[test]
    fn a_discarded_row_is_in_no_run_that_may_have_skipped_it() {
        let sparse = entry(1, 6, 3, LedgerKind::Republished);
        let dense = entry(2, 4, 3, LedgerKind::Republished);
        let discarded = entry(3, 3, 0, LedgerKind::Discarded);
        let all = || vec![sparse.clone(), dense.clone(), discarded.clone()];
        let said = Ledgered::of(3, all());
        assert_eq!(said.batches, std::slice::from_ref(&dense));
        assert_eq!(said.discarded_at, Some(DateTime::UNIX_EPOCH));
        let said = Ledgered::of(4, all());
        assert_eq!(said.batches, [sparse.clone(), dense.clone()]);
        assert_eq!(said.discarded_at, None);
        let said = Ledgered::of(3, vec![sparse.clone(), discarded.clone()]);
        assert_eq!(said.batches, []);
    }
}
