//! How far each consumer of a subscriber was when this process last looked. A consumer that was deleted before this
//! process becomes active is recreated there. Never pulls, and never changes an existing consumer.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    nats::{Bus, BusError, ConsumerSpec, StartFrom},
    position::Position,
};

/// How often a standby looks.
const LOOK: Duration = Duration::from_secs(2);

/// How far a consumer was.
#[derive(Debug, Clone)]
pub(super) struct Floor {
    /// When its stream was created: in another stream the sequences mean nothing.
    pub(super) created: Option<String>,
    /// The sequence up to which everything was acknowledged.
    pub(super) sequence: u64,
    /// The position that the stream had reached: an older copy of the stream has not.
    pub(super) seen: Option<Position>,
}

/// The consumers of a subscriber, by stream. Written by the standby and by the sources.
#[derive(Debug, Default)]
pub(super) struct Floors(Mutex<BTreeMap<String, Floor>>);

impl Floors {
    /// Notes how far a consumer is.
    pub(super) fn note(&self, stream: &str, floor: Floor) {
        self.known().insert(stream.to_owned(), floor);
    }

    /// Looks at all consumers. When one does not answer, or is missing, its last known floor stays.
    pub(super) async fn look(&self, bus: &Bus, consumers: &[ConsumerSpec]) {
        for consumer in consumers {
            let stream = &*consumer.stream;
            match looked(bus, consumer).await {
                Ok(floor) => self.note(stream, floor),
                Err(error) => tracing::debug!(stream, %error, "ack floor unknown"),
            }
        }
    }

    /// Looks repeatedly while a future is awaited: in the meantime another instance is active.
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

    /// Recreates the missing consumers; the last one is that of the retries. The active instance begins with all of
    /// them: each existed when its worker started, or when another instance was active.
    pub(super) async fn restore(
        &self,
        bus: &Bus,
        consumers: &[ConsumerSpec],
        start: StartFrom,
    ) -> Result<(), BusError> {
        let Some((of_retries, of_events)) = consumers.split_last() else {
            return Ok(());
        };
        let starts = of_events.iter().map(|consumer| (consumer, start));
        let mut is_made = false;
        for (consumer, start) in starts.chain([(of_retries, StartFrom::Beginning)]) {
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
        // Delivery does not depend on the marker.
        if is_made && let Err(error) = bus.note_streams(of_retries, of_events).await {
            tracing::warn!(%error, "consumers not marked: a list of subscribers may miss a deleted consumer");
        }
        Ok(())
    }

    /// Where nothing is lost: behind the ack floor; at the beginning, when the stream is another one; at the
    /// subscriber's own start, when nothing is known.
    async fn start(
        &self,
        bus: &Bus,
        stream: &str,
        start: StartFrom,
    ) -> Result<StartFrom, BusError> {
        let Some(floor) = self.known().get(stream).cloned() else {
            return Ok(start);
        };
        if bus.stream_created(stream).await? != floor.created {
            return Ok(StartFrom::Beginning);
        }
        let others = match floor.seen {
            Some(seen) => bus.others_since(stream, seen).await?,
            None => None,
        };
        Ok(StartFrom::Sequence(first_open(floor.sequence, others)))
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Floor>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn looked(bus: &Bus, consumer: &ConsumerSpec) -> Result<Floor, BusError> {
    // Requested first: a stream that is recreated in between counts as another one.
    let created = bus.stream_created(&consumer.stream).await?;
    let (sequence, now) = bus.ack_floor_now(consumer).await?;
    // Any message at the floor was stored before this moment.
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

/// The first sequence that may not be handled. An older copy of the stream has other messages from `others` on.
fn first_open(floor: u64, others: Option<u64>) -> u64 {
    let next = floor.saturating_add(1);
    others.map_or(next, |others| others.min(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_open_position_is_behind_the_floor() {
        assert_eq!(first_open(7, None), 8);
        assert_eq!(first_open(7, Some(3)), 3);
        assert_eq!(first_open(7, Some(9)), 8);
        assert_eq!(first_open(u64::MAX, None), u64::MAX);
    }
}
