//! A consumer that does not answer, is missing, or belongs to another stream than before: pulling is interrupted, and
//! begins again where nothing is lost. Never takes a delivery.

use chrono::{DateTime, TimeDelta, Utc};
use tokio::{task::JoinSet, time::Instant};

use super::{LONGEST_PAUSE, Order, Source, puller};
use crate::{
    log::short,
    nats::{BusError, PullError, StartFrom},
    policy::start::shifted,
    position::Position,
    worker::intake::Intake,
};

impl<I: Intake> Source<I> {
    /// Pauses pulling because the consumer does not answer; the events in flight continue.
    pub(super) fn interrupt(&mut self, error: &PullError) {
        let (stream, pause) = (&self.consumer.stream, self.pause);
        let error = error.to_string();
        if let Some(unsaid) = self.interrupted.again_as(&error, Instant::now().into_std()) {
            let error = &*short(&error);
            tracing::warn!(
                subscriber = &*self.subscriber,
                stream,
                error,
                ?pause,
                unsaid,
                "pulling interrupted"
            );
        }
        self.in_flight.stalled(format!("{stream}: {error}"));
        self.resume_at = Some(Instant::now() + pause);
        self.pause = (pause * 2).min(LONGEST_PAUSE);
    }

    /// Recreates the consumer if it is missing, and pulls again.
    pub(super) async fn resume(&mut self) {
        match self.reopened().await {
            Ok(()) => {
                self.in_flight.resumed();
                self.unset.is_over();
                self.resume_at = None;
            }
            Err(error) => {
                let stream = &self.consumer.stream;
                let told = error.told_of(stream);
                let error = error.to_string();
                if let Some(unsaid) = self.unset.again_as(&error, Instant::now().into_std()) {
                    let error = &*short(&error);
                    tracing::error!(
                        subscriber = &*self.subscriber,
                        stream,
                        error,
                        unsaid,
                        "consumer setup failed"
                    );
                }
                self.in_flight.stalled(format!("{stream}: {told}"));
                self.resume_at = Some(Instant::now() + self.pause);
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// A missing consumer begins where nothing is lost, and at the beginning of a stream that is another one.
    async fn reopened(&mut self) -> Result<(), BusError> {
        let created = self.bus.stream_created(&self.consumer.stream).await?;
        // Looks at the previous consumer do not count.
        self.looks = JoinSet::new();
        if self.intake.replay().is_some() && created != self.created {
            return Err(BusError::Broken {
                subject: self.consumer.durable.clone(),
                reason: "the stream of the replay was recreated, or is gone".to_owned(),
            });
        }
        let start = if created == self.created {
            self.forget_what_is_gone().await?;
            StartFrom::Sequence(self.first_open())
        } else {
            (self.seen, self.floor, self.suspect_to) = (None, 0, 0);
            let since = created.as_deref().and_then(|it| it.parse().ok());
            self.in_flight
                .went_back(0, since.unwrap_or(DateTime::<Utc>::MAX_UTC));
            self.created = created;
            StartFrom::Beginning
        };
        self.bus.restore_consumer(&self.consumer, start).await?;
        self.note_floor();
        // A setting may be what ends the pulls, and no regular look comes between two of them.
        self.within = 0;
        let look = self.bus.consumer_look(&self.consumer, 0).await?;
        self.judge(look).await?;
        self.again.look_at_consumer(self.seen()).await?;
        self.in_flight.begin_again();
        if self.order.is_some() {
            self.rewind().await
        } else {
            self.puller = puller(&self.bus, &self.consumer).await?;
            Ok(())
        }
    }

    /// An older copy of the stream has its creation time, but not the last delivered message. From where it has other
    /// messages, all that is known was about the previous ones.
    async fn forget_what_is_gone(&mut self) -> Result<(), BusError> {
        let Some(seen) = self.seen else {
            return Ok(());
        };
        let Some(others) = self.bus.others_since(&self.consumer.stream, seen).await? else {
            return Ok(());
        };
        self.tell_went_back(others);
        self.forget_from(others);
        let behind = shifted(seen.stored_at, TimeDelta::nanoseconds(1));
        self.in_flight.went_back(others, behind);
        self.seen = Some(Position {
            sequence: others.saturating_sub(1),
            ..seen
        });
        Ok(())
    }

    /// The first event that may not be handled. With order, only this instance is active, and knows it. Otherwise it
    /// may be one that another instance had in flight when it died, or failed to handle: events acknowledged above the
    /// floor are redelivered with it.
    fn first_open(&self) -> u64 {
        match self.order {
            Some(_) => self
                .in_flight
                .oldest()
                .unwrap_or(self.seen().saturating_add(1)),
            None => self.floor.saturating_add(1),
        }
    }

    pub(super) async fn begin_again(&mut self) {
        if let Err(error) = self.rewind().await {
            self.interrupt(&PullError::Bus(error));
        }
    }

    /// Begins at the ack floor, on an inbox that no earlier message reaches.
    pub(super) async fn rewind(&mut self) -> Result<(), BusError> {
        let fresh = puller(&self.bus, &self.consumer).await?.in_order();
        let before = std::mem::replace(&mut self.puller, fresh);
        // Closed, not dropped: messages that its pulls still received would be missing after the new start.
        drop(before.close().await);
        self.in_flight.begin_again();
        let from = self.bus.reset_consumer(&self.consumer, None).await?;
        self.order = Some(Order { next: 1, from });
        Ok(())
    }
}
