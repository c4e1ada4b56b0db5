//! One subscriber: runs what its sources deliver, as many at once as it may, in the order of each key where
//! that is wanted. Never pulls, never decides what becomes of a delivery.

use std::{collections::BTreeMap, sync::Arc};

use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    hands::Hands,
    source::{Item, Source, hand_back, until},
};
use crate::{
    bus::{Bus, BusError, ConsumerSpec},
    executor::{Executor, Step},
    lanes::Lanes,
    subscriber::{EventSubscriber, MAX_CONCURRENCY},
};

/// How many more events an ordered subscriber holds than it runs, so that a hot key does not leave
/// places empty.
const AHEAD_WHEN_ORDERED: usize = 8;

/// What one subscriber is made of.
pub(super) struct Runner<S> {
    pub(super) bus: Bus,
    pub(super) subscriber: Arc<EventSubscriber<S>>,
    pub(super) executor: Arc<Executor<S>>,
    pub(super) consumers: Vec<ConsumerSpec>,
}

/// A subscriber at work.
struct Run<S> {
    name: Arc<str>,
    executor: Arc<Executor<S>>,
    ordered: bool,
    lanes: Lanes<Item>,
    running: JoinSet<Finished>,
    /// What is run again later, by the time.
    resting: BTreeMap<(Instant, u64), (Option<String>, Item)>,
    rested: u64,
    halt: CancellationToken,
}

struct Finished {
    key: Option<String>,
    item: Item,
    step: Step,
}

impl<S: Send + Sync + 'static> Runner<S> {
    /// Runs until `stop` is cancelled and everything in hand is answered; what still runs when `halt` is
    /// cancelled is handed back.
    pub(super) async fn run(self, stop: CancellationToken, halt: CancellationToken) {
        while let Err(error) = self.work(&stop, &halt).await {
            let name = self.subscriber.name();
            tracing::error!(subscriber = name, %error, "the subscriber cannot begin");
            let pause = tokio::time::sleep(std::time::Duration::from_secs(1));
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    async fn work(
        &self,
        stop: &CancellationToken,
        halt: &CancellationToken,
    ) -> Result<(), BusError> {
        let (to, arriving) = mpsc::channel(MAX_CONCURRENCY);
        let name: Arc<str> = self.subscriber.name().into();
        let mut sources = JoinSet::new();
        for consumer in &self.consumers {
            let source = self.source(&name, consumer, to.clone()).await?;
            sources.spawn(source.run(stop.clone()));
        }
        drop(to);
        let run = Run {
            name,
            executor: Arc::clone(&self.executor),
            ordered: self.subscriber.ordered,
            lanes: Lanes::new(self.subscriber.concurrency),
            running: JoinSet::new(),
            resting: BTreeMap::new(),
            rested: 0,
            halt: halt.clone(),
        };
        run.run(arriving, stop).await;
        while let Some(ended) = sources.join_next().await {
            unpanicked(ended);
        }
        Ok(())
    }

    async fn source(
        &self,
        name: &Arc<str>,
        consumer: &ConsumerSpec,
        to: mpsc::Sender<Item>,
    ) -> Result<Source, BusError> {
        let concurrency = self.subscriber.concurrency;
        if self.subscriber.ordered {
            let capacity = concurrency
                .saturating_mul(AHEAD_WHEN_ORDERED)
                .min(MAX_CONCURRENCY);
            let hands = Hands::new(capacity).remembering();
            let source = Source::open(&self.bus, name, consumer.clone(), hands, to).await?;
            source.ordered().await
        } else {
            let hands = Hands::new(concurrency);
            Source::open(&self.bus, name, consumer.clone(), hands, to).await
        }
    }
}

impl<S: Send + Sync + 'static> Run<S> {
    async fn run(mut self, mut arriving: mpsc::Receiver<Item>, stop: &CancellationToken) {
        loop {
            let due = self.resting.first_key_value().map(|((due, _), _)| *due);
            tokio::select! {
                () = stop.cancelled() => break,
                Some(finished) = self.running.join_next() => self.finish(unpanicked(finished)),
                Some(item) = arriving.recv() => self.admit(item),
                () = until(due), if due.is_some() => self.wake(),
            }
            self.start();
        }
        self.drain(arriving).await;
    }

    fn admit(&mut self, item: Item) {
        let key = match &item.arrival.envelope {
            Ok(envelope) if self.ordered => envelope.key().map(str::to_owned),
            _ => None,
        };
        self.lanes.admit(key, item);
    }

    fn start(&mut self) {
        while let Some((key, mut item)) = self.lanes.start() {
            let executor = Arc::clone(&self.executor);
            let halt = self.halt.clone();
            self.running.spawn(async move {
                let step = executor.run(&mut item.arrival, &*item.delivery, &halt);
                let step = step.await;
                Finished { key, item, step }
            });
        }
    }

    fn finish(&mut self, finished: Finished) {
        let Finished { key, item, step } = finished;
        match step {
            Step::Over => {
                item.hands.release(item.arrival.at);
                self.lanes.finish(key.as_deref());
            }
            Step::Again(after) => {
                self.lanes.rest();
                self.rested += 1;
                let due = (Instant::now() + after, self.rested);
                self.resting.insert(due, (key, item));
            }
        }
    }

    /// What has rested long enough is ready.
    fn wake(&mut self) {
        let now = Instant::now();
        while let Some(first) = self.resting.first_entry()
            && first.key().0 <= now
        {
            let (key, item) = first.remove();
            self.lanes.again(key, item);
        }
    }

    /// What waits goes back, what runs ends by itself or is halted. In order nothing goes back: whoever is
    /// next begins at the ack floor.
    async fn drain(mut self, mut arriving: mpsc::Receiver<Item>) {
        let mut back = self.lanes.abandon();
        back.extend(
            std::mem::take(&mut self.resting)
                .into_values()
                .map(|(_, item)| item),
        );
        while let Some(item) = arriving.recv().await {
            back.push(item);
        }
        if !self.ordered {
            hand_back(&self.name, back.into_iter().map(|item| item.delivery)).await;
        }
        while let Some(finished) = self.running.join_next().await {
            let Finished { item, step, .. } = unpanicked(finished);
            if let (Step::Again(_), false) = (step, self.ordered) {
                hand_back(&self.name, std::iter::once(item.delivery)).await;
            }
        }
    }
}

/// Handlers' panics are caught where they are called: this one is our own.
fn unpanicked<T>(ended: Result<T, JoinError>) -> T {
    match ended {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
