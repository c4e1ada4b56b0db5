//! What an outbox knows of single events: their rows, the batches that carried them, and the subscribers that have
//! handled them by its inbox. Only reads.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use tidings_contract::EventId;

use crate::outbox::{
    LedgerKind, Outbox, OutboxError, Store,
    operate::Operation,
    store::{
        parked::Extent,
        trace::{TraceQuery, TracedBatch, TracedRow, TracedState},
    },
};

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
        let is_of_row = |one: &TracedBatch| one.kind == LedgerKind::Discarded && one.first_id == id;
        let discarded_at = all.iter().find(|one| is_of_row(one)).map(|one| one.at);
        all.retain(|one| {
            let rows = i128::from(one.last_id) - i128::from(one.first_id) + 1;
            let is_dense = rows == i128::from(one.events);
            one.kind != LedgerKind::Discarded && (discarded_at.is_none() || is_dense)
        });
        Self {
            batches: all,
            discarded_at,
        }
    }
}

/// A position in a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamSequence<'a> {
    pub(crate) stream: &'a str,
    pub(crate) incarnation: &'a str,
    pub(crate) sequence: u64,
}

impl<DB: Store> Outbox<DB> {
    pub(crate) async fn rows_of(&self, asked: &TraceQuery) -> Result<Vec<TracedRow>, OutboxError> {
        let names = &self.shared.names;
        self.operate(Operation::One, async |connection| {
            let mut rows = DB::rows_of(connection, names, asked).await?;
            let is_parked = |row: &&TracedRow| matches!(row.state, TracedState::Parked { .. });
            let parked: Vec<i64> = rows.iter().filter(is_parked).map(|row| row.id).collect();
            if !parked.is_empty() {
                let parked = DB::parked(connection, names, &parked, Extent::Head).await?;
                let returning: HashSet<i64> = parked
                    .iter()
                    .filter(|row| row.is_returning)
                    .map(|row| row.id)
                    .collect();
                for row in &mut rows {
                    if let TracedState::Parked { is_returning, .. } = &mut row.state {
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
        place: StreamSequence<'_>,
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

    fn entry(first_id: i64, last_id: i64, events: i32, kind: LedgerKind) -> TracedBatch {
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
            kind,
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
