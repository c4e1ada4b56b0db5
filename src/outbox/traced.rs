//! What an outbox knows of single events: their rows, the batches that carried them, and who has handled them by
//! its inbox. Only reads.

use std::collections::HashSet;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::Database;
use tidings_contract::{Envelope, EventId, wire};

use super::{Outbox, OutboxError, Store, Way, names::Names, parked::Extent, taken::Operation};

/// Which events are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted<'a> {
    Event(EventId),
    Key(&'a str),
    Correlation(&'a str),
}

/// Which rows are read: the newest that are written since then.
#[derive(Debug)]
pub struct Asked {
    /// The event's id; of a correlation that is one, its first event.
    pub event: Option<EventId>,
    /// The event's key.
    pub key: Option<String>,
    /// What stands in the headers of the events that are meant, and perhaps of others.
    pub needle: Option<String>,
    /// Written then or later.
    pub since: Option<DateTime<Utc>>,
    /// At most so many.
    pub limit: usize,
    /// The correlation, when it is asked for.
    pub correlation: Option<String>,
}

/// An event as a table of the outbox has it.
#[derive(Debug, Clone, PartialEq)]
pub struct TracedRow {
    /// The place in the table.
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
    /// Which table it is, and what that says.
    pub spot: Spot,
}

/// Where a row is.
#[derive(Debug, Clone, PartialEq)]
pub enum Spot {
    /// In the log; the relay's cursor has passed it or not.
    Log {
        /// Whether it has.
        is_passed: bool,
    },
    /// Put aside.
    Parked {
        /// When.
        at: DateTime<Utc>,
        /// Why.
        error: String,
        /// What it waits for.
        waits_for: Option<String>,
        /// When it was asked for.
        asked_at: Option<DateTime<Utc>>,
        /// Whether it goes back without a decision.
        goes_back: bool,
    },
    /// Not due yet.
    Delayed {
        /// When it is.
        due: DateTime<Utc>,
    },
}

/// An entry of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracedBatch {
    /// When it was written down that the stream had confirmed it.
    pub at: DateTime<Utc>,
    /// The epoch of the relay's lease.
    pub epoch: i64,
    /// How many events.
    pub events: i32,
    /// The lowest place in the outbox.
    pub first_id: i64,
    /// The highest place in the outbox.
    pub last_id: i64,
    /// The stream.
    pub stream: String,
    /// The stream's incarnation.
    pub incarnation: String,
    /// The sequence of the first event.
    pub first_sequence: u64,
    /// The sequence of the last event.
    pub last_sequence: u64,
    /// What it says of its rows.
    pub way: Way,
}

/// What the ledger says of one row.
#[derive(Debug, Default)]
pub(crate) struct Ledgered {
    /// The batches that may have had it.
    pub(crate) batches: Vec<TracedBatch>,
    /// When it was given up while it was parked.
    pub(crate) discarded_at: Option<DateTime<Utc>>,
}

impl Ledgered {
    /// `all` are the entries whose range has the row. A range may have rows between those of its batch, and a row that
    /// was discarded is only in one that has no such: no stream takes what is parked, but it may have been forced later.
    fn of(id: i64, mut all: Vec<TracedBatch>) -> Self {
        let is_of_row = |one: &TracedBatch| one.way == Way::Discarded && one.first_id == id;
        let discarded_at = all.iter().find(|one| is_of_row(one)).map(|one| one.at);
        all.retain(|one| {
            let rows = i128::from(one.last_id) - i128::from(one.first_id) + 1;
            let is_dense = rows == i128::from(one.events);
            one.way != Way::Discarded && (discarded_at.is_none() || is_dense)
        });
        Self {
            batches: all,
            discarded_at,
        }
    }
}

/// A place in a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spotted<'a> {
    pub(crate) stream: &'a str,
    pub(crate) incarnation: &'a str,
    pub(crate) sequence: u64,
}

/// The statements about single events.
pub trait Trail: Database<Connection: Send> {
    /// The rows that may be meant, the newest first.
    fn rows_of(
        connection: &mut Self::Connection,
        names: &Names,
        asked: &Asked,
    ) -> impl Future<Output = Result<Vec<TracedRow>, sqlx::Error>> + Send;

    /// The entries of the ledger whose range has a place of the outbox, in the order of their times, with those of what
    /// was discarded.
    fn batches_of(
        connection: &mut Self::Connection,
        names: &Names,
        id: i64,
    ) -> impl Future<Output = Result<Vec<TracedBatch>, sqlx::Error>> + Send;

    /// The entries of the ledger whose range has a place of a stream's incarnation.
    fn batches_at(
        connection: &mut Self::Connection,
        names: &Names,
        stream: &str,
        incarnation: &str,
        sequence: i64,
    ) -> impl Future<Output = Result<Vec<TracedBatch>, sqlx::Error>> + Send;

    /// The scopes in which the inbox remembers an event, and why it was given up, when it was not handled.
    fn scopes_of(
        connection: &mut Self::Connection,
        names: &Names,
        event: EventId,
    ) -> impl Future<Output = Result<Vec<(String, Option<String>)>, sqlx::Error>> + Send;

    /// When the oldest row of the log was written.
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
                // What a writer may have written in another way is looked for by the header's name.
                let is_plain = id
                    .chars()
                    .all(|c| c.is_ascii_graphic() && c != '"' && c != '\\' && c != '/');
                let needle = if is_plain { id } else { "orrelation" };
                asked.needle = Some(needle.to_owned());
                // An event without a correlation has its own id for one.
                asked.event = id.parse().ok();
                asked.correlation = Some(id.to_owned());
            }
        }
        asked
    }

    /// Whether a row is meant.
    pub(super) fn means(&self, row: &TracedRow) -> bool {
        match &self.correlation {
            Some(wanted) => row
                .envelope()
                .is_some_and(|e| e.correlation_id() == *wanted),
            None => true,
        }
    }
}

impl TracedRow {
    /// The event, without its payload; nothing when a foreign writer has written what is none.
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
                    .filter(|row| row.goes_back)
                    .map(|row| row.id)
                    .collect();
                for row in &mut rows {
                    if let Spot::Parked { goes_back, .. } = &mut row.spot {
                        *goes_back = returning.contains(&row.id);
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
        let sequence = super::store::sequence(place.sequence);
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

    fn entry(first_id: i64, last_id: i64, events: i32, way: Way) -> TracedBatch {
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
    fn a_discarded_row_is_in_no_run_that_may_have_passed_over_it() {
        let sparse = entry(1, 6, 3, Way::Republished);
        let dense = entry(2, 4, 3, Way::Republished);
        let discarded = entry(3, 3, 0, Way::Discarded);
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
