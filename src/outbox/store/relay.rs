//! The statements of the relay: its lease, its checkpoints, and the rows after its cursor. Never decides what happens
//! to a row.

use std::{collections::HashSet, fmt::Debug, time::Duration};

use sqlx::Database;

use super::{Bound, Checkpoint, Claim, Names, Page, Tenure, Written, origin::Origin};

/// How far the relay is, in the form of one database.
pub trait Cursor: Clone + Debug + Send + Sync + 'static {}

impl<T: Clone + Debug + Send + Sync + 'static> Cursor for T {}

/// The statements of the relay. Every time is the database's clock.
pub trait RelayStatements: Database<Connection: Send> {
    /// How far the relay is.
    type Cursor: Cursor;

    /// Whether the relay's cursor is valid in this database. It always is where a copy is as good as the original.
    fn origin(
        _connection: &mut Self::Connection,
        _names: &Names,
    ) -> impl Future<Output = Result<Origin, sqlx::Error>> + Send {
        std::future::ready(Ok(Origin::Own))
    }

    /// Takes or renews the lease; `None` while another relay has it.
    fn claim(
        connection: &mut Self::Connection,
        names: &Names,
        owner: &str,
        lease: Duration,
    ) -> impl Future<Output = Result<Option<Claim<Self::Cursor>>, sqlx::Error>> + Send;

    /// Writes how far the relay is and what was confirmed, and renews the lease, atomically; `None` when the epoch is
    /// over. The followers of a restored row are marked for unparking.
    fn checkpoint(
        connection: &mut Self::Connection,
        names: &Names,
        tenure: &Tenure,
        checkpoint: &Checkpoint<Self::Cursor>,
    ) -> impl Future<Output = Result<Option<Written>, sqlx::Error>> + Send;

    /// Writes the issues of a relay that has no lease; does nothing while another relay has it.
    fn write_issues(
        connection: &mut Self::Connection,
        names: &Names,
        owner: &str,
        issues: &str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Records the server's limit for headers and payload together, for readers of the database.
    fn note_limit(
        _connection: &mut Self::Connection,
        _names: &Names,
        _max_payload: usize,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        std::future::ready(Ok(()))
    }

    /// Ends the lease, so that a standby need not wait for it to expire.
    fn release(
        connection: &mut Self::Connection,
        names: &Names,
        tenure: &Tenure,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Reads the committed rows after the cursor, in the order of ids; at most `bound`.
    fn fetch(
        connection: &mut Self::Connection,
        names: &Names,
        cursor: &Self::Cursor,
        bound: Bound,
    ) -> impl Future<Output = Result<Page<Self::Cursor>, sqlx::Error>> + Send;

    /// Returns which of these row ids of the log the cursor has not passed.
    fn ahead(
        connection: &mut Self::Connection,
        names: &Names,
        cursor: &Self::Cursor,
        ids: &[i64],
    ) -> impl Future<Output = Result<HashSet<i64>, sqlx::Error>> + Send;
}
