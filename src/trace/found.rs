//! What is told of an event, made from what was found of it. Never searches.

use chrono::{DateTime, Utc};
use tidings_contract::EventId;

use super::{
    report::{OutboxTrace, StoredEvent, TracedBatch, TracedEvent},
    search::made_at,
};
use crate::bus::{Expanse, Sighting};

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
            | OutboxTrace::Delayed { written_at, .. } => Some(*written_at),
            _ => None,
        }
    }

    /// The earliest that is known of it.
    pub(super) fn first_seen_at(&self) -> DateTime<Utc> {
        let stored = self.stored.iter().filter_map(|stored| stored.stored_at);
        let earliest = stored.chain(self.written_at()).min();
        let letters = || {
            let all = self.subscribers.iter().flat_map(|one| &one.dead_letters);
            all.map(|letter| letter.at).min()
        };
        let earliest = earliest.or_else(letters).or_else(|| made_at(self.event));
        earliest.unwrap_or(DateTime::UNIX_EPOCH)
    }
}

impl OutboxTrace {
    /// The place in the log.
    pub(super) fn row(&self) -> Option<i64> {
        match self {
            Self::Waiting { row, .. } | Self::Relayed { row, .. } => Some(*row),
            _ => None,
        }
    }
}

impl TracedBatch {
    /// The sequence of a row, when no place of the batch's range is another batch's.
    pub(super) fn sequence_of(&self, row: i64) -> Option<u64> {
        let places = u64::try_from(self.last_row - self.first_row + 1).ok()?;
        let at = u64::try_from(row - self.first_row).ok()?;
        (places == self.events).then_some(self.first_sequence + at)
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
