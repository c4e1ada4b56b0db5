//! Opens the sources of a subscriber, each with its share of what may be in flight, which follows from the concurrency.
//! Never pulls.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Run, Runner};
use crate::{
    handler::subscriber::{EventSubscriber, MAX_CONCURRENCY},
    nats::{BusError, ConsumerSpec},
    worker::{in_flight_table::InFlightTable, item::Item, live::Live, source::Source},
};

/// How many times as many events an ordered subscriber holds as it runs, so that a hot key does not leave capacity
/// unused.
const AHEAD_WHEN_ORDERED: usize = 8;

impl<S: Send + Sync + 'static> Runner<S> {
    pub(super) async fn source(
        &self,
        name: &Arc<str>,
        consumer: &ConsumerSpec,
        intake: Live,
        to: mpsc::Sender<Item>,
    ) -> Result<Source<Live>, BusError> {
        // Each source has its share: none knows what the others have requested.
        let memory = self.subscriber.memory / self.consumers.len().max(1);
        let throttle = Arc::clone(self.executor.throttle());
        let capacity = capacity(&self.subscriber, throttle.concurrency());
        let in_flight = Arc::new(InFlightTable::new(capacity, memory, throttle));
        let source = Source::open(&self.bus, name, consumer.clone(), in_flight, intake, to).await?;
        Ok(source.noting(&self.floors))
    }
}

impl<S: Send + Sync + 'static> Run<S> {
    /// Adopts the concurrency of the throttle, which may have been adjusted. When it is lower, what runs ends by
    /// itself, and what waits here stays.
    pub(super) fn adjust(&mut self) {
        let concurrency = self.throttle.concurrency();
        if concurrency == self.concurrency {
            return;
        }
        self.concurrency = concurrency;
        self.lanes.set_limit(at_once(&self.subscriber, concurrency));
        for in_flight in &self.in_flight {
            in_flight.set_capacity(capacity(&self.subscriber, concurrency));
        }
    }
}

/// How many events of a stream may be in flight.
fn capacity<S: Send + Sync + 'static>(
    subscriber: &EventSubscriber<S>,
    concurrency: usize,
) -> usize {
    let ahead = [1, AHEAD_WHEN_ORDERED][usize::from(subscriber.ordered)];
    let at_once = at_once(subscriber, concurrency);
    at_once.saturating_mul(ahead).min(MAX_CONCURRENCY)
}

/// How many events are begun at once. With batches: as many as all concurrent batches hold, and for each handler one
/// batch that is being collected.
pub(in crate::worker) fn at_once<S: Send + Sync + 'static>(
    subscriber: &EventSubscriber<S>,
    concurrency: usize,
) -> usize {
    let batches = || subscriber.largest_batches();
    let at_once = match batches().max() {
        Some(largest) => batches().fold(concurrency.saturating_mul(largest), usize::saturating_add),
        None => concurrency,
    };
    at_once.min(MAX_CONCURRENCY)
}
