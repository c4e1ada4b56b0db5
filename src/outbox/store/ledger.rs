//! The rows that the relay has passed, the entries of the ledger about them, and the statements that read both. Never
//! writes.

use std::{collections::HashSet, hash::RandomState};

use chrono::{DateTime, Utc};
use tidings_contract::EventId;

use super::{Entry, Names, Positions, Rows};

/// How events came into a stream, as the ledger records it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerKind {
    /// The relay has published them.
    Relayed,
    /// They were republished.
    Republished,
    /// They were republished under another subject.
    Copied,
    /// They did not come into a stream: they were parked, and an operator has discarded them.
    Discarded,
}

impl LedgerKind {
    pub(in crate::outbox) fn as_str(self) -> &'static str {
        match self {
            Self::Relayed => "relayed",
            Self::Republished => "republished",
            Self::Copied => "copied",
            Self::Discarded => "discarded",
        }
    }

    pub(in crate::outbox) fn parse(text: &str) -> Self {
        match text {
            "republished" => Self::Republished,
            "copied" => Self::Copied,
            "discarded" => Self::Discarded,
            _ => Self::Relayed,
        }
    }
}

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
pub struct PassedQuery<'a> {
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
pub trait LedgerStatements: sqlx::Database {
    /// Returns how far the relay is.
    fn passed(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<Passed, sqlx::Error>> + Send;

    /// Returns which of these row ids are parked, or were discarded while parked.
    fn parked_ids(
        connection: &mut Self::Connection,
        names: &Names,
        ids: &[i64],
    ) -> impl Future<Output = Result<HashSet<i64>, sqlx::Error>> + Send;

    /// Returns rows that the relay has passed, in the order of row ids.
    fn relayed(
        connection: &mut Self::Connection,
        names: &Names,
        selection: &PassedQuery<'_>,
    ) -> impl Future<Output = Result<Vec<Relayed>, sqlx::Error>> + Send;

    /// Returns the same rows as a whole, without hashes.
    fn relayed_rows(
        connection: &mut Self::Connection,
        names: &Names,
        selection: &PassedQuery<'_>,
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
