//! Looks at the consumer of a source every few seconds: how far everything is acknowledged, and whether the settings
//! are right. Never pulls.

use tokio::{task::JoinError, time::Instant};

use super::Source;
use crate::{
    nats::{BusError, BusErrorKind, ConsumerLook, PullError},
    worker::{checkup::Verdict, in_flight_table::Looked, intake::Intake},
};

impl<I: Intake> Source<I> {
    /// Learns the ack floor, where a deleted consumer begins again, and detects the deletion: a source without capacity
    /// requests nothing, and so is not notified, while the events in flight of an ordered subscriber wait until their
    /// acks are confirmed.
    pub(super) fn look_at_consumer(&mut self) {
        if self.resume_at.is_none() && self.looks.is_empty() {
            let (bus, consumer, within) = (self.bus.clone(), self.consumer.clone(), self.within);
            self.looks
                .spawn(async move { bus.consumer_look(&consumer, within).await });
        }
    }

    pub(super) async fn note_look(
        &mut self,
        looked: Result<Result<ConsumerLook, BusError>, JoinError>,
    ) {
        match looked {
            Ok(Ok(look)) => {
                self.floor = look.floor();
                self.note_within(&look);
                self.note_floor();
                self.in_flight.forget_up_to(self.floor);
                if let Err(error) = self.judge(look).await {
                    self.interrupt(&PullError::Bus(error));
                }
            }
            Ok(Err(error)) if error.kind() == BusErrorKind::ConsumerNotFound => {
                self.interrupt(&PullError::Bus(error));
            }
            // The pull reports the cause.
            Ok(Err(error)) => tracing::debug!(%error, "ack floor unknown"),
            Err(error) => tracing::error!(%error, "consumer check panicked"),
        }
    }

    /// Remembers how far this was checked: a consumer that waits for events costs no further request.
    fn note_within(&mut self, look: &ConsumerLook) {
        if look.beyond.is_none() {
            self.within = self.within.max(look.delivered_up_to());
        }
    }

    /// Corrects the consumer's settings, and reports its issues.
    ///
    /// # Errors
    /// [`BusError::Settings`] when nothing may be pulled from it.
    pub(super) async fn judge(&mut self, look: ConsumerLook) -> Result<(), BusError> {
        let has_room = self.in_flight.has_room(self.bus.max_payload());
        let now = Instant::now();
        self.in_flight.looked(Looked {
            at: now.into_std(),
            pending: look.num_pending,
            ack_pending: look.num_ack_pending,
            is_paused: look.paused,
            has_room,
        });
        let Verdict {
            mut issues,
            set_back,
            stops,
        } = self.checkup.judge(&self.consumer, &look, has_room, now);
        if set_back {
            let set_back = self.bus.set_back(&self.consumer, look.config).await;
            let refused = set_back.err().map(|error| error.to_string());
            issues.extend(self.checkup.set_back(&self.consumer, refused));
        }
        let stream = &self.consumer.stream;
        for issue in self.in_flight.set_issues(issues) {
            tracing::error!(subscriber = &*self.subscriber, stream, %issue, "subscriber issue found");
        }
        match stops {
            Some(issue) => Err(BusError::Settings { issue }),
            None => Ok(()),
        }
    }
}
