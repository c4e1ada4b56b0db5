//! The rows that the relay has passed, and where they went according to the ledger. Only reads.

use std::{collections::HashSet, future::Future, hash::RandomState};

use chrono::{DateTime, Utc};
use tidings_contract::EventId;

use crate::outbox::{
    Outbox, OutboxError, Store,
    store::{Entry, Positions, Rows, names::Names, taken::Operation},
};

/// The entries that one statement reads.
const ENTRIES: usize = 1000;

/// An event that the relay has passed and not parked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relayed {
    /// The row id in the outbox.
    pub id: i64,
    /// The event's id.
    pub event: EventId,
    /// The event's name.
    pub name: String,
    /// The payload's version.
    pub version: i64,
    /// The event's key.
    pub key: Option<String>,
    /// The size of the payload.
    pub bytes: usize,
    /// The payload's hash, when payloads are read.
    pub payload: Option<u64>,
}

/// How far the relay was at one moment.
#[derive(Debug, Clone)]
pub struct Passed {
    /// The relay's cursor, as the database writes it.
    pub cursor: String,
    /// While a backlog drains: the snapshot under which it is read, and the last row id passed in it.
    pub page: Option<(String, i64)>,
    /// The relay's position in each stream.
    pub streams: Positions,
}

/// A selection of events; by default all.
#[derive(Debug, Clone)]
pub struct Range {
    /// The first row id.
    pub first: i64,
    /// The last row id.
    pub last: i64,
    /// The earliest time of writing.
    pub since: Option<DateTime<Utc>>,
    /// The latest time of writing.
    pub until: Option<DateTime<Utc>>,
    /// The event names; all names when empty.
    pub names: Vec<String>,
    /// The key.
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

/// A page of the events that the relay has passed.
#[derive(Debug, Clone, Copy)]
pub struct Stretch<'a> {
    /// Only rows after this row id.
    pub behind: i64,
    /// The selection.
    pub range: &'a Range,
    /// How far the relay was.
    pub passed: &'a Passed,
    /// The most rows to read.
    pub limit: usize,
    /// The hasher, when the hashes of payloads are wanted.
    pub payloads: Option<&'a RandomState>,
}

/// Where the ledger's entries of a stream begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beginning {
    /// The stream.
    pub stream: String,
    /// The stream's incarnation.
    pub incarnation: String,
    /// The lowest sequence.
    pub sequence: u64,
}

/// The statements about past events.
pub trait Archive: sqlx::Database {
    /// Returns how far the relay is.
    fn passed(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<Passed, sqlx::Error>> + Send;

    /// Returns which of these row ids are parked, or were discarded while parked.
    fn parked_places(
        connection: &mut Self::Connection,
        names: &Names,
        ids: &[i64],
    ) -> impl Future<Output = Result<HashSet<i64>, sqlx::Error>> + Send;

    /// Returns rows that the relay has passed, in the order of row ids.
    fn relayed(
        connection: &mut Self::Connection,
        names: &Names,
        stretch: &Stretch<'_>,
    ) -> impl Future<Output = Result<Vec<Relayed>, sqlx::Error>> + Send;

    /// Returns the same rows as a whole, without hashes.
    fn relayed_rows(
        connection: &mut Self::Connection,
        names: &Names,
        stretch: &Stretch<'_>,
    ) -> impl Future<Output = Result<Rows, sqlx::Error>> + Send;

    /// Returns, per stream, where the entries about this row id and later ones begin.
    fn beginnings(
        connection: &mut Self::Connection,
        names: &Names,
        from: i64,
    ) -> impl Future<Output = Result<Vec<Beginning>, sqlx::Error>> + Send;

    /// Returns the entries that end after a row id, in the order of their ends.
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

    pub(in crate::outbox) async fn relayed_rows(
        &self,
        stretch: &Stretch<'_>,
    ) -> Result<Rows, OutboxError> {
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

    /// Returns the entries that end after a row id, in the order of their ends. Entries that end at the same row id
    /// stay together. Empty when there are no more.
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
