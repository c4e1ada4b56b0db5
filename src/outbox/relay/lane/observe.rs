//! Tells the observers how what a lane has sent has ended. Never decides anything.

use super::{Answer, Item, RelayLane};
use crate::{
    nats::{Confirmed, Refusal},
    observer::{BatchEnd, Observation, Path},
    outbox::store::Cursor,
};

impl<C: Cursor> RelayLane<C> {
    pub(super) fn observe(&self, items: &[Item], answer: &Answer) {
        match answer {
            Answer::Batch(answer) => {
                self.tell(Path::Batch, items.iter(), answer.as_ref().err());
            }
            Answer::Each(answers) => self.observe_each(items, answers),
        }
    }

    /// Tells the rows that were sent each by itself: the stored ones at once, each refused one with its reason.
    pub(super) fn observe_each(&self, items: &[Item], answers: &[Result<Confirmed, Refusal>]) {
        let ends = || items.iter().zip(answers);
        let stored = ends().filter(|(_, answer)| answer.is_ok());
        self.tell(Path::Single, stored.map(|(item, _)| item), None);
        for (item, answer) in ends() {
            if let Err(refusal) = answer {
                self.tell(Path::Single, std::iter::once(item), Some(refusal));
            }
        }
    }

    fn tell<'a>(
        &self,
        path: Path,
        items: impl Iterator<Item = &'a Item>,
        refusal: Option<&Refusal>,
    ) {
        let (events, bytes) = items.fold((0, 0), |(events, bytes), item| {
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
            refusal: refusal.map(|refusal| refusal as _),
        }));
    }
}
