//! How far each consumer of a subscriber was when this process looked last: one that is gone before this process works
//! is made anew there. Never pulls, and never changes a consumer that is there.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    bus::{Bus, BusError, ConsumerSpec, Start},
    position::Position,
};

/// How often a stand-by looks.
const LOOK: Duration = Duration::from_secs(2);

/// How far a consumer was.
#[derive(Debug, Clone)]
pub(super) struct Floor {
    /// When its stream was created: sequences of another one mean nothing here.
    pub(super) created: Option<String>,
    /// Up to here everything was acknowledged.
    pub(super) sequence: u64,
    /// What the stream had: an older copy of it has not.
    pub(super) seen: Option<Position>,
}

/// The consumers of a subscriber, by stream. Written by whoever looks at one.
#[derive(Debug, Default)]
pub(super) struct Floors(Mutex<BTreeMap<String, Floor>>);

impl Floors {
    /// A consumer is so far.
    pub(super) fn note(&self, stream: &str, floor: Floor) {
        self.known().insert(stream.to_owned(), floor);
    }

    /// Looks at all consumers. Of one that does not answer, or is gone, what was known stays.
    pub(super) async fn look(&self, bus: &Bus, consumers: &[ConsumerSpec]) {
        for consumer in consumers {
            let stream = &*consumer.stream;
            match looked(bus, consumer).await {
                Ok(floor) => self.note(stream, floor),
                Err(error) => tracing::debug!(stream, %error, "ack floor unknown"),
            }
        }
    }

    /// Looks again and again until something is there that is waited for: another replica works.
    pub(super) async fn watch<T>(
        &self,
        bus: &Bus,
        consumers: &[ConsumerSpec],
        waited_for: impl Future<Output = T>,
    ) -> T {
        tokio::select! {
            there = waited_for => there,
            never = self.look_again(bus, consumers) => match never {},
        }
    }

    async fn look_again(&self, bus: &Bus, consumers: &[ConsumerSpec]) -> Infallible {
        loop {
            tokio::time::sleep(LOOK).await;
            self.look(bus, consumers).await;
        }
    }

    /// Makes the consumers that are gone, the last of which is that of the retries. The one who works begins with all of
    /// them: each was there when its worker started, or when another replica worked.
    pub(super) async fn restore(
        &self,
        bus: &Bus,
        consumers: &[ConsumerSpec],
        start: Start,
    ) -> Result<(), BusError> {
        let Some((of_retries, of_events)) = consumers.split_last() else {
            return Ok(());
        };
        let starts = of_events.iter().map(|consumer| (consumer, start));
        let mut is_made = false;
        for (consumer, start) in starts.chain([(of_retries, Start::Beginning)]) {
            if bus.consumer_created(consumer).await?.is_some() {
                continue;
            }
            let (stream, durable) = (&consumer.stream, &consumer.durable);
            tracing::warn!(
                stream,
                durable,
                "consumer missing: it was deleted while the instance was not active, and is recreated"
            );
            let start = self.start(bus, stream, start).await?;
            bus.restore_consumer(consumer, start).await?;
            is_made = true;
        }
        // Delivery does not depend on it.
        if is_made && let Err(error) = bus.note_streams(of_retries, of_events).await {
            tracing::warn!(%error, "consumers not marked: a list of subscribers may miss a deleted consumer");
        }
        Ok(())
    }

    /// Where nothing is lost: behind the ack floor, at the beginning of a stream that is another one, and where the
    /// subscriber begins when nothing is known.
    async fn start(&self, bus: &Bus, stream: &str, start: Start) -> Result<Start, BusError> {
        let Some(floor) = self.known().get(stream).cloned() else {
            return Ok(start);
        };
        if bus.stream_created(stream).await? != floor.created {
            return Ok(Start::Beginning);
        }
        let others = match floor.seen {
            Some(seen) => bus.others_since(stream, seen).await?,
            None => None,
        };
        Ok(Start::Sequence(first_open(floor.sequence, others)))
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Floor>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn looked(bus: &Bus, consumer: &ConsumerSpec) -> Result<Floor, BusError> {
    // Asked first: a stream that is made anew in between counts as another one.
    let created = bus.stream_created(&consumer.stream).await?;
    let (sequence, now) = bus.ack_floor_now(consumer).await?;
    // Whatever is at the floor was stored before.
    let seen = now.map(|stored_at| Position {
        sequence,
        stored_at,
    });
    Ok(Floor {
        created,
        sequence,
        seen,
    })
}

/// The first sequence that may not be handled; an older copy of the stream has other messages from `others` on.
fn first_open(floor: u64, others: Option<u64>) -> u64 {
    let next = floor.saturating_add(1);
    others.map_or(next, |others| others.min(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_handled_begins_behind_the_floor_or_with_other_messages() {
        assert_eq!(first_open(7, None), 8);
        assert_eq!(first_open(7, Some(3)), 3);
        assert_eq!(first_open(7, Some(9)), 8);
        assert_eq!(first_open(u64::MAX, None), u64::MAX);
    }
}
