//! Tells the observers how what a lane has sent has ended. Never decides anything.

use std::time::SystemTime;

use super::{Item, RelayLane};
use crate::{
    nats::{Confirmed, Refusal},
    observer::{
        BatchEnd, Observation, Path, Stored, StoredBatch,
        traces::{self, TraceObserver},
    },
    outbox::store::{Cursor, Entry},
};

impl<C: Cursor> RelayLane<C> {
    pub(super) fn observe_batch(&self, items: &[Item], answer: &Result<Confirmed, Refusal>) {
        if let (Some(observer), Ok(last)) = (traces::installed(), answer) {
            let before = last.sequence.saturating_sub(items.len() as u64);
            self.trace(
                observer,
                items.iter().zip(before.saturating_add(1)..=u64::MAX),
                true,
            );
        }
        self.tell(Path::Batch, items.iter(), answer.as_ref().err());
    }

    /// Tells the rows that were sent each by itself: the stored ones at once, each refused one with its reason.
    pub(super) fn observe_each<'a>(
        &self,
        ends: impl Iterator<Item = (&'a Item, &'a Result<Confirmed, Refusal>)> + Clone,
    ) {
        if let Some(observer) = traces::installed() {
            let new = ends.clone().filter_map(|(item, answer)| match answer {
                Ok(confirmed) if !confirmed.is_duplicate => Some((item, confirmed.sequence)),
                _ => None,
            });
            self.trace(observer, new, true);
        }
        let stored = ends.clone().filter(|(_, answer)| answer.is_ok());
        self.tell(Path::Single, stored.map(|(item, _)| item), None);
        for (item, answer) in ends {
            if let Err(refusal) = answer {
                self.tell(Path::Single, std::iter::once(item), Some(refusal));
            }
        }
    }

    /// Tells the trace observer the rows that an earlier relay has sent, and that this one has found in the stream.
    pub(super) fn observe_found(&self, items: &[Item], entries: &[Entry]) {
        if let Some(observer) = traces::installed() {
            let sequences = entries.iter().map(|entry| entry.first_sequence);
            self.trace(observer, items.iter().zip(sequences), false);
        }
    }

    fn trace<'a>(
        &self,
        observer: &dyn TraceObserver,
        stored: impl Iterator<Item = (&'a Item, u64)>,
        is_sent: bool,
    ) {
        let stored = stored.map(|(item, sequence)| Stored {
            event: &item.envelope,
            written_at: item.row.at,
            sequence,
        });
        let events: Vec<Stored<'_>> = stored.collect();
        if events.is_empty() {
            return;
        }
        let sent_at = SystemTime::now().checked_sub(self.sent_at.elapsed());
        observer.stored(&StoredBatch {
            stream: &self.lane.stream,
            events: &events,
            sent_at: sent_at.filter(|_| is_sent),
        });
    }

    fn tell<'a>(
        &self,
        path: Path,
        items: impl Iterator<Item = &'a Item> + Clone,
        refusal: Option<&Refusal>,
    ) {
        let (events, bytes) = items.clone().fold((0, 0), |(events, bytes), item| {
            (events + 1, bytes + item.row.payload.len())
        });
        if events == 0 {
            return;
        }
        self.context.observers.tell(&Observation::Batch(BatchEnd {
            stream: &self.lane.stream,
            path,
            events,
            bytes,
            elapsed: self.sent_at.elapsed(),
            committed: &|each| items.clone().for_each(|item| each(item.row.at)),
            refusal: refusal.map(|refusal| refusal as _),
            is_unknown: refusal.is_some_and(Refusal::is_unknown),
        }));
    }
}
