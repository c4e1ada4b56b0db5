//! Finds out why an acknowledged event is redelivered: its consumer was recreated, the server has lost acks, or an
//! operator has reset the consumer. The server counts deliveries from one in all three cases. Never handles an event.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

use crate::{
    executor::Delivery,
    nats::{Bus, BusError, ConsumerSpec},
};

/// How long after a lost connection the server may have forgotten acks: a killed server loses those that it has not
/// written, and redelivers those events first.
const FORGETFUL: Duration = Duration::from_secs(60);

/// The state of one consumer.
pub(super) struct Again {
    bus: Bus,
    consumer: ConsumerSpec,
    /// When the consumer was created.
    made: Option<String>,
    /// Deliveries up to this sequence are repeated because the consumer was recreated.
    up_to: u64,
    lost: watch::Receiver<u64>,
    /// Until then the server may redeliver events whose acks it has forgotten.
    forgets_until: Option<Instant>,
}

impl Again {
    pub(super) async fn open(bus: &Bus, consumer: &ConsumerSpec) -> Result<Self, BusError> {
        let mut lost = bus.losses();
        lost.mark_unchanged();
        Ok(Self {
            bus: bus.clone(),
            consumer: consumer.clone(),
            made: bus.consumer_created(consumer).await?,
            up_to: 0,
            lost,
            forgets_until: None,
        })
    }

    /// Checks the connection. Call it every few seconds, and before asking about a delivery.
    pub(super) fn look(&mut self) {
        let was_lost = self.lost.has_changed().unwrap_or(false);
        if was_lost || !self.bus.is_connected() {
            self.lost.mark_unchanged();
            self.forgets_until = Some(Instant::now() + FORGETFUL);
        }
    }

    /// Checks whether the consumer was recreated; `delivered` is how far it has delivered until now.
    pub(super) async fn look_at_consumer(&mut self, delivered: u64) -> Result<(), BusError> {
        let made = self.bus.consumer_created(&self.consumer).await?;
        if made != self.made {
            self.made = made;
            // An event that is in flight now is acknowledged before it is redelivered.
            self.up_to = delivered;
        }
        Ok(())
    }

    /// Whether the redelivery is due to a reset of the consumer. An unknown cause counts as a reset: the event is
    /// handled again.
    pub(super) async fn was_reset(&mut self, delivery: &Delivery, delivered: u64) -> bool {
        self.look();
        let now = Instant::now();
        if delivery.delivered != 1 || self.forgets_until.is_some_and(|until| now < until) {
            return false;
        }
        let sequence = delivery.position.sequence;
        if sequence > self.up_to
            && let Err(error) = self.look_at_consumer(delivered).await
        {
            let stream = &self.consumer.stream;
            tracing::warn!(stream, sequence, %error, "redelivery cause unknown: the event is handled again");
        }
        sequence > self.up_to
    }

    /// From this sequence on the stream has other messages, which were never delivered.
    pub(super) fn went_back(&mut self, to: u64) {
        self.up_to = self.up_to.min(to.saturating_sub(1));
    }
}
