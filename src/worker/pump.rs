//! One subscriber on one stream: pulls what there is place for, runs it, keeps the rest waiting.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::{Bus, BusError, ConsumerSpec, Delivery, PullError, Pulled, Puller, PullerOptions, Start},
    executor::{Acknowledger, Arrival, Executor, PROGRESS},
    lanes::Lanes,
    subscriber::{EventSubscriber, MAX_CONCURRENCY},
};

/// How many more events an ordered subscriber holds than it runs, so that a hot key does not leave
/// places empty.
const AHEAD_WHEN_ORDERED: usize = 8;
/// How many bytes may be asked for at once.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// How long a consumer that does not answer is left alone, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Pump<S> {
    bus: Bus,
    consumer: ConsumerSpec,
    /// When the stream was created: sequences of another one mean nothing here.
    created: Option<String>,
    /// The highest sequence that was delivered.
    seen: u64,
    name: String,
    executor: Arc<Executor<S>>,
    puller: Puller,
    lanes: Lanes<Held>,
    /// The sequences that wait or run. The server delivers one again when it thinks we lost it.
    held: HashSet<u64>,
    running: JoinSet<Finished>,
    capacity: usize,
    ordered: bool,
    pulling: CancellationToken,
    /// While pulling is interrupted: when it is tried again.
    resume_at: Option<Instant>,
    pause: Duration,
}

/// A delivery in hand.
struct Held {
    delivery: Delivery,
    arrival: Arrival,
}

struct Finished {
    key: Option<String>,
    sequence: u64,
}

impl<S: Send + Sync + 'static> Pump<S> {
    pub(super) async fn open(
        bus: Bus,
        consumer: ConsumerSpec,
        subscriber: Arc<EventSubscriber<S>>,
        executor: Arc<Executor<S>>,
        pulling: CancellationToken,
    ) -> Result<Self, BusError> {
        bus.apply_consumer(&consumer).await?;
        let created = bus.stream_created(&consumer.stream).await?;
        let puller = puller(&bus, &consumer).await?;
        let ahead = if subscriber.ordered {
            AHEAD_WHEN_ORDERED
        } else {
            1
        };
        Ok(Self {
            bus,
            consumer,
            created,
            seen: 0,
            name: subscriber.name().to_owned(),
            executor,
            puller,
            lanes: Lanes::new(subscriber.concurrency),
            held: HashSet::new(),
            running: JoinSet::new(),
            capacity: subscriber
                .concurrency
                .saturating_mul(ahead)
                .min(MAX_CONCURRENCY),
            ordered: subscriber.ordered,
            pulling,
            resume_at: None,
            pause: FIRST_PAUSE,
        })
    }

    /// Runs until pulling is cancelled and everything in hand is answered.
    pub(super) async fn run(mut self) {
        let pulling = self.pulling.clone();
        let mut progress = tokio::time::interval(PROGRESS);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.ask().await;
            let interrupted = self.resume_at;
            tokio::select! {
                () = pulling.cancelled() => break,
                Some(finished) = self.running.join_next() => self.finish(finished),
                pulled = self.puller.next(), if interrupted.is_none() => match pulled {
                    Ok(Some(message)) => self.admit(message),
                    Ok(None) => {}
                    Err(error) => self.interrupt(&error),
                },
                () = until(interrupted), if interrupted.is_some() => self.resume().await,
                _ = progress.tick() => self.tell_progress().await,
            }
        }
        self.drain().await;
    }

    /// Asks for as much as there is place for.
    async fn ask(&mut self) {
        if self.resume_at.is_some() {
            return;
        }
        let free = self.capacity.saturating_sub(self.held.len());
        if let Err(error) = self.puller.ask(free, self.capacity, MAX_BYTES).await {
            self.interrupt(&error);
        }
    }

    fn admit(&mut self, message: Pulled) {
        let Some((delivery, arrival)) = Delivery::read(&self.bus, &self.name, message) else {
            tracing::warn!(
                subscriber = self.name,
                "a message from outside the consumer is ignored"
            );
            return;
        };
        self.pause = FIRST_PAUSE;
        self.seen = self.seen.max(arrival.sequence);
        if !self.held.insert(arrival.sequence) {
            tracing::debug!(sequence = arrival.sequence, "delivered again while in hand");
            return;
        }
        let key = match &arrival.envelope {
            Ok(envelope) if self.ordered => envelope.key().map(str::to_owned),
            _ => None,
        };
        self.lanes.admit(key, Held { delivery, arrival });
        self.start();
    }

    fn start(&mut self) {
        while let Some((key, held)) = self.lanes.start() {
            let executor = Arc::clone(&self.executor);
            self.running.spawn(async move {
                let Held { delivery, arrival } = held;
                let sequence = arrival.sequence;
                executor.run(arrival, &delivery).await;
                Finished { key, sequence }
            });
        }
    }

    fn finish(&mut self, finished: Result<Finished, tokio::task::JoinError>) {
        match finished {
            Ok(Finished { key, sequence }) => {
                self.held.remove(&sequence);
                self.lanes.finish(key.as_deref());
                self.start();
            }
            // Handlers' panics are caught where they are called: this one is our own.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// What waits in a lane is in hand too; without a sign the server would give it to somebody else.
    async fn tell_progress(&self) {
        for held in self.lanes.waiting() {
            if let Err(error) = held.delivery.progress().await {
                tracing::warn!(subscriber = self.name, %error, "progress could not be told");
                return;
            }
        }
    }

    /// The consumer does not answer: pulling pauses while what is in hand goes on.
    fn interrupt(&mut self, error: &PullError) {
        let (stream, pause) = (&self.consumer.stream, self.pause);
        tracing::warn!(subscriber = self.name, stream, %error, ?pause, "pulling is interrupted");
        self.resume_at = Some(Instant::now() + pause);
        self.pause = (pause * 2).min(LONGEST_PAUSE);
    }

    /// Sets the consumer up again, where it is missing, and pulls anew.
    async fn resume(&mut self) {
        match self.reopened().await {
            Ok(puller) => {
                self.puller = puller;
                self.resume_at = None;
            }
            Err(error) => {
                let stream = &self.consumer.stream;
                tracing::error!(subscriber = self.name, stream, %error, "the consumer cannot be set up");
                self.resume_at = Some(Instant::now() + self.pause);
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// A consumer that is gone begins where this replica stands, unless the stream is another one.
    async fn reopened(&mut self) -> Result<Puller, BusError> {
        let created = self.bus.stream_created(&self.consumer.stream).await?;
        let start = if created == self.created {
            Start::Sequence(self.held.iter().min().copied().unwrap_or(self.seen + 1))
        } else {
            self.seen = 0;
            self.created = created;
            Start::Beginning
        };
        self.bus.restore_consumer(&self.consumer, start).await?;
        puller(&self.bus, &self.consumer).await
    }

    /// No new pulls; what waits or is on its way goes back, what runs ends by itself or is halted by the
    /// worker.
    async fn drain(self) {
        let Self {
            bus,
            name,
            puller,
            mut lanes,
            held,
            mut running,
            ..
        } = self;
        let mut back: Vec<Delivery> = lanes.abandon().into_iter().map(|h| h.delivery).collect();
        for pulled in puller.close().await {
            match Delivery::read(&bus, &name, pulled) {
                Some((delivery, arrival)) if !held.contains(&arrival.sequence) => {
                    back.push(delivery)
                }
                _ => {}
            }
        }
        let handed = back.iter().map(|delivery| delivery.retry(Duration::ZERO));
        for error in futures::future::join_all(handed)
            .await
            .into_iter()
            .filter_map(Result::err)
        {
            tracing::warn!(subscriber = name, %error, "an event could not be handed back");
        }
        while let Some(finished) = running.join_next().await {
            if let Err(error) = finished {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

/// Waits until a moment; for ever when there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

async fn puller(bus: &Bus, consumer: &ConsumerSpec) -> Result<Puller, BusError> {
    let options = PullerOptions {
        stream: consumer.stream.clone(),
        consumer: consumer.durable.clone(),
    };
    match Puller::open(bus, &options).await {
        Ok(puller) => Ok(puller),
        Err(PullError::Bus(error)) => Err(error),
        Err(PullError::Gone(reason)) => Err(BusError::Broken {
            subject: consumer.durable.clone(),
            reason,
        }),
    }
}
