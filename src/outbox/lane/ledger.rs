//! Builds the ledger entries of a lane: one for each run of messages without a gap in the stream. Pure.

use super::Item;
use crate::{
    nats::Confirmed,
    outbox::store::{Entry, ledger::LedgerKind},
};

/// Builds entries for one stream.
pub(in crate::outbox) struct Ledger {
    kind: LedgerKind,
    stream: String,
    incarnation: String,
}

impl Ledger {
    pub(in crate::outbox) fn new(kind: LedgerKind, stream: &str, incarnation: &str) -> Self {
        Self {
            kind,
            stream: stream.to_owned(),
            incarnation: incarnation.to_owned(),
        }
    }

    pub(in crate::outbox) fn incarnation(&self) -> &str {
        &self.incarnation
    }

    /// A batch is stored without a gap, so its last sequence determines the others.
    pub(in crate::outbox) fn batch<N>(&self, items: &[Item<N>], last: &Confirmed) -> Vec<Entry> {
        let before = last.sequence.saturating_sub(items.len() as u64);
        let mut entries = Vec::new();
        for (item, sequence) in items.iter().zip(before.saturating_add(1)..=u64::MAX) {
            self.add(&mut entries, item.row.id, sequence);
        }
        entries
    }

    /// Extends the last entry while there is no gap. A row that was committed late starts a new entry, so that an
    /// entry goes from its lowest row id to its highest.
    pub(in crate::outbox) fn add(&self, entries: &mut Vec<Entry>, id: i64, sequence: u64) {
        match entries.last_mut() {
            Some(run) if run.last_sequence.checked_add(1) == Some(sequence) && run.last_id < id => {
                run.last_id = id;
                run.last_sequence = sequence;
                run.events += 1;
            }
            _ => entries.push(self.entry(id, sequence)),
        }
    }

    pub(in crate::outbox) fn entry(&self, id: i64, sequence: u64) -> Entry {
        Entry {
            first_id: id,
            last_id: id,
            events: 1,
            stream: self.stream.clone(),
            incarnation: self.incarnation.clone(),
            first_sequence: sequence,
            last_sequence: sequence,
            kind: self.kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lookup of a row searches ranges of row ids.
    #[test]
    fn an_entry_goes_from_its_lowest_row_id_to_its_highest() {
        let (ledger, mut entries) = (Ledger::new(LedgerKind::Relayed, "A", "then"), Vec::new());
        for (id, sequence) in [(5, 1), (7, 2), (6, 3), (9, 4), (10, 6)] {
            ledger.add(&mut entries, id, sequence);
        }
        let ranges: Vec<_> = entries
            .iter()
            .map(|entry| {
                (
                    entry.first_id,
                    entry.last_id,
                    entry.events,
                    entry.first_sequence,
                )
            })
            .collect();
        assert_eq!(ranges, [(5, 7, 2, 1), (6, 9, 2, 3), (10, 10, 1, 6)]);
    }
}
