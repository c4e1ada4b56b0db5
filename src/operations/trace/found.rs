//! Builds the report of an event from what was found of it. Never searches.

use chrono::{DateTime, Utc};
use tidings_contract::EventId;

use super::{
    report::{OutboxTrace, StoredEvent, TracedBatch, TracedEvent},
    search::made_at,
};
use crate::nats::{Expanse, Sighting};

impl TracedEvent {
    pub(super) fn named(event: EventId, name: &str, version: u32, key: Option<String>) -> Self {
        Self {
            event,
            name: name.to_owned(),
            version,
            key,
            correlation_id: event.to_string(),
            causation_id: None,
            source: None,
            outbox: OutboxTrace::Absent { why: String::new() },
            batches: Vec::new(),
            stored: Vec::new(),
            unstored: None,
            taken: None,
            subscribers: Vec::new(),
            unheard: None,
        }
    }

    pub(super) fn written_at(&self) -> Option<DateTime<Utc>> {
        match &self.outbox {
            OutboxTrace::Waiting { written_at, .. }
            | OutboxTrace::Relayed { written_at, .. }
            | OutboxTrace::Parked { written_at, .. }
            | OutboxTrace::Discarded { written_at, .. }
            | OutboxTrace::Delayed { written_at, .. } => Some(*written_at),
            _ => None,
        }
    }

    /// Marks the event as discarded while it was parked.
    pub(super) fn discarded(&mut self, discarded_at: DateTime<Utc>) {
        if let Some((row, written_at)) = self.outbox.row().zip(self.written_at()) {
            self.outbox = OutboxTrace::Discarded {
                row,
                written_at,
                discarded_at,
            };
        }
    }

    /// The earliest known time of the event.
    pub(super) fn first_seen_at(&self) -> DateTime<Utc> {
        let stored = self.stored.iter().filter_map(|stored| stored.stored_at);
        let earliest = stored.chain(self.written_at()).min();
        let dead_lettered = || {
            let all = self.subscribers.iter().flat_map(|one| &one.dead_letters);
            all.map(|letter| letter.at).min()
        };
        let earliest = earliest
            .or_else(dead_lettered)
            .or_else(|| made_at(self.event));
        earliest.unwrap_or(DateTime::UNIX_EPOCH)
    }
}

impl OutboxTrace {
    /// The row id.
    pub(super) fn row(&self) -> Option<i64> {
        match self {
            Self::Waiting { row, .. } | Self::Relayed { row, .. } => Some(*row),
            _ => None,
        }
    }
}

impl TracedBatch {
    /// The sequence of a row; `None` when rows of other batches lie within the batch's range.
    pub(super) fn sequence_of(&self, row: i64) -> Option<u64> {
        let places = self.last_row.checked_sub(self.first_row)?.checked_add(1)?;
        let places = u64::try_from(places).ok()?;
        let at = u64::try_from(row.checked_sub(self.first_row)?).ok()?;
        let sequence = self.first_sequence.checked_add(at)?;
        (places == self.events).then_some(sequence)
    }
}

impl StoredEvent {
    pub(super) fn of(name: &str, stream: &Expanse, sighting: &Sighting) -> Self {
        Self {
            stream: name.to_owned(),
            sequence: sighting.sequence,
            stored_at: Some(sighting.stored_at),
            is_there: true,
            incarnation: stream.incarnation.clone(),
            identity: sighting.identity.clone(),
        }
    }

    pub(super) fn missing(batch: &TracedBatch, sequence: u64) -> Self {
        Self {
            stream: batch.stream.clone(),
            sequence,
            stored_at: None,
            is_there: false,
            incarnation: batch.incarnation.clone(),
            identity: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_batches_of_the_ledger() {
        let seeds = [
            "10 12 3 5 11",
            "-9223372036854775808 9223372036854775807 18446744073709551615 18446744073709551615 17",
            "0 1 2 18446744073709551615 1",
        ];
        tidings_fuzz::fuzz_text("batch of the ledger", &seeds, |text| {
            let numbers: Vec<i128> = text
                .split(' ')
                .filter_map(|text| text.parse().ok())
                .collect();
            let id = |at: usize| i64::try_from(*numbers.get(at)?).ok();
            let count = |at: usize| u64::try_from(*numbers.get(at)?).ok();
            let batch = TracedBatch {
                at: DateTime::UNIX_EPOCH,
                epoch: 0,
                events: count(2).unwrap_or(u64::MAX),
                first_row: id(0).unwrap_or(i64::MIN),
                last_row: id(1).unwrap_or(i64::MAX),
                stream: String::new(),
                incarnation: String::new(),
                first_sequence: count(3).unwrap_or(u64::MAX),
                last_sequence: u64::MAX,
            };
            let found = batch.sequence_of(id(4).unwrap_or(i64::MIN));
            assert!(found.is_none_or(|sequence| sequence >= batch.first_sequence));
            found.is_some()
        });
    }
}
