//! The shutdown of an active subscriber: waiting events are handed back, running ones end. Never begins anything.

use std::time::Duration;

use tokio::{sync::mpsc, time::Instant};

use super::{Finished, Run};
use crate::{
    executor::{Disposition, PROGRESS},
    observer::DeliveryEnd,
    worker::{
        answers::{hand_back, tell_progress},
        item::Item,
    },
};

impl<S: Send + Sync + 'static> Run<S> {
    /// Hands waiting events back; running ones end by themselves or are halted. With order nothing is handed back: the
    /// next instance begins at the ack floor.
    pub(super) async fn drain(mut self, mut arriving: mpsc::Receiver<Item>) {
        let mut back = self.lanes.abandon();
        let gathered = self.batcher.abandon().into_iter();
        back.extend(gathered.map(|begun| begun.item));
        back.extend(
            std::mem::take(&mut self.resting)
                .into_values()
                .map(|(_, item)| item),
        );
        while let Some(item) = arriving.recv().await {
            back.push(item);
        }
        for item in &back {
            let ends = self.executor.ends();
            ends.tell(&item.delivery, DeliveryEnd::Returned);
        }
        if !self.ordered {
            for item in &back {
                item.in_flight.let_go(item.delivery.position);
            }
            hand_back(&self.name, back.into_iter().map(|item| item.ack)).await;
        }
        // Not at once, and not once it is halted: progress that follows a nak would keep the event from other instances
        // until ack_wait is over.
        let mut progress = tokio::time::interval_at(Instant::now() + PROGRESS, PROGRESS);
        loop {
            if self.tasks.at_work() == 0 {
                break;
            }
            tokio::select! {
                () = self.tasks.has_done() => {}
                _ = progress.tick(), if !self.halt.is_cancelled() => {
                    for in_flight in &self.in_flight {
                        tell_progress(&self.name, in_flight, Duration::ZERO).await;
                    }
                    continue;
                }
            }
            for finished in self.tasks.take_done() {
                self.let_go(finished).await;
            }
        }
        while self.leaving.join_next().await.is_some() {}
        self.executor.tally().nothing_waits();
    }

    /// Releases an event whose attempt ended during the drain.
    async fn let_go(&self, finished: Finished) {
        let Finished {
            item, disposition, ..
        } = finished;
        match disposition {
            Disposition::Settled => item.in_flight.release(item.delivery.position),
            Disposition::RetryLocally(_) => {
                let ends = self.executor.ends();
                ends.tell(&item.delivery, DeliveryEnd::Returned);
                // With order, the event stays in flight until the next instance begins at the ack floor.
                if !self.ordered {
                    hand_back(&self.name, std::iter::once(item.ack)).await;
                }
            }
            Disposition::Abandoned => {}
        }
    }
}
