//! Tells the observers how a batch has ended. Never decides anything.

use std::fmt::Display;

use tokio::time::Instant;

use super::{Answer, Item, RelayLane};
use crate::{
    observer::{BatchEnd, Observation, Observers},
    outbox::store::Cursor,
};

/// Who is told about the batches of a lane.
pub(super) struct Observed {
    observers: Observers,
    /// When the last batch was sent.
    sent_at: Instant,
}

impl Default for Observed {
    fn default() -> Self {
        Self {
            observers: Observers::default(),
            sent_at: Instant::now(),
        }
    }
}

impl Observed {
    pub(super) fn batch_is_sent(&mut self) {
        self.sent_at = Instant::now();
    }
}

impl<C: Cursor> RelayLane<C> {
    pub(super) fn observe(&self, items: &[Item], answer: &Answer) {
        let size = |(events, bytes): (usize, usize), item: &Item| {
            (events + 1, bytes + item.row.payload.len())
        };
        let ((events, bytes), refusal) = match answer {
            Answer::Batch(Ok(_)) => (items.iter().fold((0, 0), size), None),
            Answer::Batch(Err(refusal)) => {
                let refusal: &dyn Display = refusal;
                (items.iter().fold((0, 0), size), Some(refusal))
            }
            // Each row that is refused has its own end.
            Answer::Each(answers) => {
                let stored = items.iter().zip(answers);
                let stored = stored.filter(|(_, answer)| answer.is_ok());
                let stored = stored.map(|(item, _)| item).fold((0, 0), size);
                (stored, None)
            }
        };
        let Observed { observers, sent_at } = &self.observed;
        let (stream, elapsed) = (&self.lane.stream, sent_at.elapsed());
        observers.tell(&Observation::Batch(BatchEnd {
            stream,
            events,
            bytes,
            elapsed,
            refusal,
        }));
    }
}
