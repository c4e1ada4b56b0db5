//! What the relay has passed, and where the ledger says it went. Only reads.

use std::{collections::HashSet, future::Future, hash::RandomState};

use chrono::{DateTime, Utc};
use tidings_contract::EventId;

use super::{
    Outbox, OutboxError, Store,
    names::Names,
    store::{Entry, Positions, Rows},
    taken::Operation,
};

/// Entries that are read at once.
const ENTRIES: usize = 1000;

/// An event that the relay has passed, and did not put aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relayed {
    /// The place in the outbox.
    pub id: i64,
    /// The event's id.
    pub event: EventId,
    /// The event's name.
    pub name: String,
    /// The payload's version.
    pub version: i64,
    /// The event's key.
    pub key: Option<String>,
    /// Of the payload.
    pub bytes: usize,
    /// The payload's hash, when payloads are read.
    pub payload: Option<u64>,
}

/// How far the relay was at a moment.
#[derive(Debug, Clone)]
pub struct Passed {
    /// The relay's cursor, as the database writes it.
    pub cursor: String,
    /// While a backlog drains: the snapshot that it is read under, and the last place that is passed of it.
    pub page: Option<(String, i64)>,
    /// Where it was in each stream.
    pub streams: Positions,
}

/// Which events are meant; by default all.
#[derive(Debug, Clone)]
pub struct Range {
    /// From this place on.
    pub first: i64,
    /// Up to this place.
    pub last: i64,
    /// Written then or later.
    pub since: Option<DateTime<Utc>>,
    /// Written then or before.
    pub until: Option<DateTime<Utc>>,
    /// Of these names; all when there is none.
    pub names: Vec<String>,
    /// Of this key.
    pub key: Option<String>,
}

impl Default for Range {
    fn default() -> Self {
        Self {
            first: 0,
            last: i64::MAX,
            since: None,
            until: None,
            names: Vec::new(),
            key: None,
        }
    }
}

/// Which of the events that the relay has passed.
#[derive(Debug, Clone, Copy)]
pub struct Stretch<'a> {
    /// Behind this place.
    pub behind: i64,
    /// Of these.
    pub range: &'a Range,
    /// How far the relay was.
    pub passed: &'a Passed,
    /// At most so many.
    pub limit: usize,
    /// With the hash of the payload.
    pub payloads: Option<&'a RandomState>,
}

/// Where the ledger's entries about a stream begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beginning {
    /// The stream.
    pub stream: String,
    /// The stream's incarnation.
    pub incarnation: String,
    /// The lowest sequence.
    pub sequence: u64,
}

/// The statements that look back.
pub trait Archive: sqlx::Database {
    /// How far the relay is.
    fn passed(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<Passed, sqlx::Error>> + Send;

    /// Which of these places are put aside, or have been and were given up.
    fn parked_places(
        connection: &mut Self::Connection,
        names: &Names,
        ids: &[i64],
    ) -> impl Future<Output = Result<HashSet<i64>, sqlx::Error>> + Send;

    /// What the relay has passed, in the order of places.
    fn relayed(
        connection: &mut Self::Connection,
        names: &Names,
        stretch: &Stretch<'_>,
    ) -> impl Future<Output = Result<Vec<Relayed>, sqlx::Error>> + Send;

    /// The same with all that the rows hold; of hashes there is none.
    fn relayed_rows(
        connection: &mut Self::Connection,
        names: &Names,
        stretch: &Stretch<'_>,
    ) -> impl Future<Output = Result<Rows, sqlx::Error>> + Send;

    /// Where the entries begin that are about a place or a later one.
    fn beginnings(
        connection: &mut Self::Connection,
        names: &Names,
        from: i64,
    ) -> impl Future<Output = Result<Vec<Beginning>, sqlx::Error>> + Send;

    /// The entries that end behind a place, in the order of their ends.
    fn entries(
        connection: &mut Self::Connection,
        names: &Names,
        behind: i64,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Entry>, sqlx::Error>> + Send;
}

impl<DB: Store> Outbox<DB> {
    pub(crate) async fn passed(&self) -> Result<Passed, OutboxError> {
        let names = &self.shared.names;
        self.operate(Operation::One, async |connection| {
            DB::passed(connection, names).await
        })
        .await
    }

    pub(crate) async fn relayed(&self, stretch: &Stretch<'_>) -> Result<Vec<Relayed>, OutboxError> {
        let names = &self.shared.names;
        self.operate(Operation::Own, async |connection| {
            DB::relayed(connection, names, stretch).await
        })
        .await
    }

    pub(super) async fn relayed_rows(&self, stretch: &Stretch<'_>) -> Result<Rows, OutboxError> {
        let names = &self.shared.names;
        self.operate(Operation::Own, async |connection| {
            DB::relayed_rows(connection, names, stretch).await
        })
        .await
    }

    pub(crate) async fn beginnings(&self, from: i64) -> Result<Vec<Beginning>, OutboxError> {
        let names = &self.shared.names;
        self.operate(Operation::One, async |connection| {
            DB::beginnings(connection, names, from).await
        })
        .await
    }

    /// Entries that end behind a place, in the order of their ends; all that end at the last one's place. Empty
    /// when there are no more.
    pub(crate) async fn entries(&self, behind: i64) -> Result<Vec<Entry>, OutboxError> {
        let mut limit = ENTRIES;
        loop {
            let names = &self.shared.names;
            let reading = async |connection: &mut DB::Connection| {
                DB::entries(connection, names, behind, limit).await
            };
            let mut entries = self.operate(Operation::One, reading).await?;
            if entries.len() < limit {
                return Ok(entries);
            }
            let last = entries.last().map(|entry| entry.last_id);
            entries.retain(|entry| Some(entry.last_id) != last);
            if !entries.is_empty() {
                return Ok(entries);
            }
            limit *= 2;
        }
    }
}
