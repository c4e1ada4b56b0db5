//! Opens the sources of a subscriber, each with its share of what may be in flight. Never pulls.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::Runner;
use crate::{
    handler::subscriber::MAX_CONCURRENCY,
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
        let at_once = self.at_once();
        // Each source has its share: none knows what the others have requested.
        let memory = self.subscriber.memory / self.consumers.len().max(1);
        let throttle = Arc::clone(self.executor.throttle());
        let ahead = [1, AHEAD_WHEN_ORDERED][usize::from(self.subscriber.ordered)];
        let capacity = at_once.saturating_mul(ahead).min(MAX_CONCURRENCY);
        let in_flight = Arc::new(InFlightTable::new(capacity, memory, throttle));
        let source = Source::open(&self.bus, name, consumer.clone(), in_flight, intake, to).await?;
        Ok(source.noting(&self.floors))
    }

    /// How many events are begun at once. With batches: as many as all concurrent batches hold, and for each handler
    /// one batch that is being collected.
    pub(super) fn at_once(&self) -> usize {
        let concurrency = self.subscriber.concurrency;
        let batches = || self.subscriber.largest_batches();
        let at_once = match batches().max() {
            Some(largest) => {
                batches().fold(concurrency.saturating_mul(largest), usize::saturating_add)
            }
            None => concurrency,
        };
        at_once.min(MAX_CONCURRENCY)
    }
}
