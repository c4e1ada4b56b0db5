//! Why an event comes again that was answered: its consumer was made anew, or the server has forgotten answers, or
//! somebody has reset the consumer. The server counts deliveries from one in all three. Never handles an event.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

use crate::{
    bus::{Bus, BusError, ConsumerSpec},
    executor::Arrival,
};

/// For so long behind a lost connection the server is taken to have forgotten answers: one that is killed loses what it
/// has not written down, which is what it delivers again first.
const FORGETFUL: Duration = Duration::from_secs(60);

/// What is known of one consumer.
pub(super) struct Again {
    bus: Bus,
    consumer: ConsumerSpec,
    /// When the consumer was made.
    made: Option<String>,
    /// What was delivered up to here comes again because the consumer was made anew.
    up_to: u64,
    lost: watch::Receiver<u64>,
    /// Until then the server may deliver again what it has forgotten.
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

    /// Looks at the connection: to be called every few seconds, and before a delivery is asked about.
    pub(super) fn look(&mut self) {
        let was_lost = self.lost.has_changed().unwrap_or(false);
        if was_lost || !self.bus.is_connected() {
            self.lost.mark_unchanged();
            self.forgets_until = Some(Instant::now() + FORGETFUL);
        }
    }

    /// The consumer may have been made anew; until now it has delivered so far.
    pub(super) async fn look_at_consumer(&mut self, delivered: u64) -> Result<(), BusError> {
        let made = self.bus.consumer_created(&self.consumer).await?;
        if made != self.made {
            self.made = made;
            // What is in hand now is answered before it comes again.
            self.up_to = delivered;
        }
        Ok(())
    }

    /// Whether it is because somebody has reset the consumer. What is not known counts as that: it is handled again.
    pub(super) async fn was_reset(&mut self, arrival: &Arrival, delivered: u64) -> bool {
        self.look();
        let now = Instant::now();
        if arrival.delivered != 1 || self.forgets_until.is_some_and(|until| now < until) {
            return false;
        }
        let sequence = arrival.at.sequence;
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
