//! Which rows the ledger records as confirmed. Only reads.

use std::collections::HashSet;

use crate::outbox::{Entry, LedgerKind, Outbox, OutboxError, Store};

/// The ledger from a row id on; 16 bytes for each range of rows.
pub(super) struct Ledger {
    /// The first and last row id of each range, sorted and disjoint.
    ranges: Vec<(i64, i64)>,
    discarded: HashSet<i64>,
}

impl Ledger {
    /// Reads the entries about rows from this row id on.
    pub(super) async fn read<DB: Store>(
        outbox: &Outbox<DB>,
        first: i64,
    ) -> Result<Self, OutboxError> {
        let mut all = Vec::new();
        let mut behind = first.saturating_sub(1);
        loop {
            let page = outbox.entries(behind).await?;
            let Some(last) = page.last() else { break };
            behind = last.last_id;
            all.extend(page.iter().map(Range::of));
        }
        Ok(Self::of(all))
    }

    fn of(all: Vec<Range>) -> Self {
        let (discarded, known): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|range| range.is_discarded);
        let mut known: Vec<_> = known
            .iter()
            .map(|known| (known.first, known.last))
            .collect();
        known.sort_unstable();
        let mut ranges: Vec<(i64, i64)> = Vec::new();
        for (first, last) in known {
            match ranges.last_mut() {
                Some(before) if first <= before.1 => before.1 = before.1.max(last),
                _ => ranges.push((first, last)),
            }
        }
        Self {
            ranges,
            discarded: discarded.iter().map(|range| range.first).collect(),
        }
    }

    /// Whether a stream has confirmed the row with this id.
    pub(super) fn knows(&self, place: i64) -> bool {
        let behind = self.ranges.partition_point(|(first, _)| *first <= place);
        let range = behind.checked_sub(1).map(|at| self.ranges[at]);
        range.is_some_and(|(_, last)| place <= last) && !self.discarded.contains(&place)
    }
}

struct Range {
    first: i64,
    last: i64,
    is_discarded: bool,
}

impl Range {
    /// The relay may have sent rows in another order than that of their ids.
    fn of(entry: &Entry) -> Self {
        let (first, last) = (entry.first_id, entry.last_id);
        Self {
            first: first.min(last),
            last: first.max(last),
            is_discarded: entry.kind == LedgerKind::Discarded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: i64, last: i64) -> Range {
        Range {
            first,
            last,
            is_discarded: false,
        }
    }

    #[test]
    fn a_row_in_a_ledger_entry_is_known_unless_discarded() {
        let discarded = Range {
            is_discarded: true,
            ..range(4, 4)
        };
        let all = vec![range(20, 25), range(1, 6), range(3, 9), discarded];
        let ledger = Ledger::of(all);
        let known: Vec<i64> = (0..30).filter(|place| ledger.knows(*place)).collect();
        let expected: Vec<i64> = (1..=9).filter(|n| *n != 4).chain(20..=25).collect();
        assert_eq!(known, expected);
    }
}
