//! The rows that the relay has passed, and where they went according to the ledger. Only reads.

use crate::outbox::{
    Outbox, OutboxError, Store,
    operate::Operation,
    store::{
        Entry, Rows,
        ledger::{Beginning, Passed, PassedQuery, Relayed},
    },
};

/// The entries that one statement reads.
const ENTRIES: usize = 1000;

impl<DB: Store> Outbox<DB> {
    pub(crate) async fn passed(&self) -> Result<Passed, OutboxError> {
        let names = &self.shared.names;
        self.operate(Operation::One, async |connection| {
            DB::passed(connection, names).await
        })
        .await
    }

    pub(crate) async fn relayed(
        &self,
        selection: &PassedQuery<'_>,
    ) -> Result<Vec<Relayed>, OutboxError> {
        let names = &self.shared.names;
        self.operate(Operation::Own, async |connection| {
            DB::relayed(connection, names, selection).await
        })
        .await
    }

    pub(in crate::outbox) async fn relayed_rows(
        &self,
        selection: &PassedQuery<'_>,
    ) -> Result<Rows, OutboxError> {
        let names = &self.shared.names;
        self.operate(Operation::Own, async |connection| {
            DB::relayed_rows(connection, names, selection).await
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
