//! One subscriber: runs what its sources deliver, as many at once as it may, in the order of each key where
//! that is wanted. Never pulls, never decides what becomes of a delivery.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    board::{Asked, Board, Figures},
    hands::Hands,
    lease::{Handled, Lease},
    parks::{Parks, key_of},
    source::{Item, Source, hand_back, tell_progress, until},
    suspects::Suspects,
};
use crate::{
    breaker::Permit,
    bus::{Bus, BusError, ConsumerSpec},
    executor::{Executor, PROGRESS, Step},
    flow::{Begin, Flow, Pulls},
    lanes::{Lanes, Priority, Turn},
    subscriber::{EventSubscriber, MAX_CONCURRENCY},
};

/// How many more events an ordered subscriber holds than it runs, so that a hot key does not leave
/// places empty.
const AHEAD_WHEN_ORDERED: usize = 8;

/// How long a subscriber that cannot begin is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// What one subscriber is made of.
pub(super) struct Runner<S> {
    pub(super) bus: Bus,
    pub(super) subscriber: Arc<EventSubscriber<S>>,
    pub(super) executor: Arc<Executor<S>>,
    pub(super) board: Arc<Board>,
    pub(super) consumers: Vec<ConsumerSpec>,
}

/// A subscriber at work.
struct Run<S> {
    name: Arc<str>,
    executor: Arc<Executor<S>>,
    parks: Arc<Parks>,
    ordered: bool,
    lanes: Lanes<Item>,
    running: JoinSet<Finished>,
    /// What is run again later, by the time.
    resting: BTreeMap<(Instant, u64), (Turn, Item)>,
    rested: u64,
    flow: Arc<Flow>,
    /// When something may begin that may not now.
    later: Option<Instant>,
    /// What the sources may ask for, as they know it.
    pulls: Pulls,
    hands: Vec<Arc<Hands>>,
    board: Arc<Board>,
    asked: Asked,
    halt: CancellationToken,
}

struct Finished {
    turn: Turn,
    item: Item,
    step: Step,
}

impl<S: Send + Sync + 'static> Runner<S> {
    /// Runs until `stop` is cancelled and everything in hand is answered; what still runs when `halt` is
    /// cancelled is handed back.
    pub(super) async fn run(self, stop: CancellationToken, halt: CancellationToken) {
        let mut known = Handled::new();
        while !stop.is_cancelled() {
            let worked = if self.subscriber.ordered {
                self.work_alone(&mut known, &stop, &halt).await
            } else {
                let worked = self.work(&Handled::new(), 0, &stop, &halt).await;
                worked.map(drop)
            };
            self.board.ended();
            if let Err(error) = worked {
                self.board.cannot_begin(error.to_string());
                let name = self.subscriber.name();
                tracing::error!(subscriber = name, %error, "the subscriber cannot begin");
                stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
            }
        }
    }

    /// Works as long as this replica has the lease. When it is lost, what was handled is still known here:
    /// nobody has told whoever takes over, and that may be this replica again.
    async fn work_alone(
        &self,
        known: &mut Handled,
        stop: &CancellationToken,
        halt: &CancellationToken,
    ) -> Result<(), BusError> {
        if let Some(consumer) = self.consumers.last() {
            self.bus.open_state(&consumer.stream).await?;
        }
        let lease = Lease::new(&self.bus, self.subscriber.name());
        self.board.stands_by();
        let Some(mut tenure) = lease.acquire(stop).await else {
            return Ok(());
        };
        self.board.has_lease();
        let (stop, halt) = (stop.child_token(), halt.child_token());
        let mut before = std::mem::take(&mut tenure.handled);
        for (place, handled) in std::mem::take(known) {
            before.entry(place).or_default().extend(handled);
        }
        let unclean = tenure.unclean;
        let mut working = std::pin::pin!(self.work(&before, unclean, &stop, &halt));
        let worked = tokio::select! {
            worked = &mut working => worked,
            () = lease.hold(&mut tenure) => {
                self.board.drains();
                stop.cancel();
                halt.cancel();
                let worked = working.await;
                let handled = worked.as_ref().unwrap_or(&before);
                *known = handled.clone();
                return worked.map(drop);
            }
        };
        let (handled, worked) = match worked {
            Ok(handled) => (handled, Ok(())),
            // It has handled nothing: what it was told is still all that is known.
            Err(error) => (before.clone(), Err(error)),
        };
        lease.release(&tenure, handled).await;
        worked
    }

    /// Works until it is told to stop, and gives what it has handled above the ack floors.
    async fn work(
        &self,
        before: &Handled,
        unclean: u32,
        stop: &CancellationToken,
        halt: &CancellationToken,
    ) -> Result<Handled, BusError> {
        let (to, arriving) = mpsc::channel(MAX_CONCURRENCY);
        let name: Arc<str> = self.subscriber.name().into();
        let retries = self.consumers.last();
        let retries = retries.map_or("", |consumer| &consumer.stream);
        let suspects = Suspects::new(&self.bus, &name, retries);
        let parks = Parks::open(&self.bus, &self.subscriber, suspects).await?;
        let mut sources = JoinSet::new();
        let mut hands = Vec::new();
        for consumer in &self.consumers {
            let source = self.source(&name, consumer, (before, unclean), to.clone());
            let source = source.await?;
            hands.push(Arc::clone(source.hands()));
            sources.spawn(source.run(stop.clone()));
        }
        drop(to);
        let run = Run {
            name,
            executor: Arc::clone(&self.executor),
            parks,
            ordered: self.subscriber.ordered,
            lanes: Lanes::new(self.subscriber.concurrency),
            running: JoinSet::new(),
            resting: BTreeMap::new(),
            rested: 0,
            flow: Arc::clone(self.executor.flow()),
            later: None,
            pulls: Pulls::All,
            asked: self.board.works(&hands),
            board: Arc::clone(&self.board),
            hands,
            halt: halt.clone(),
        };
        run.run(arriving, stop).await;
        let mut handled = Handled::new();
        while let Some(ended) = sources.join_next().await {
            let (place, hands) = unpanicked(ended);
            handled.insert(place, hands.handled());
        }
        Ok(handled)
    }

    async fn source(
        &self,
        name: &Arc<str>,
        consumer: &ConsumerSpec,
        (before, unclean): (&Handled, u32),
        to: mpsc::Sender<Item>,
    ) -> Result<Source, BusError> {
        let concurrency = self.subscriber.concurrency;
        // Each has its share: what one has asked for the others do not know of.
        let memory = self.subscriber.memory / self.consumers.len().max(1);
        let flow = Arc::clone(self.executor.flow());
        if self.subscriber.ordered {
            let capacity = concurrency
                .saturating_mul(AHEAD_WHEN_ORDERED)
                .min(MAX_CONCURRENCY);
            let hands = Hands::new(capacity, memory, flow);
            let source = Source::open(&self.bus, name, consumer.clone(), hands, to).await?;
            source.ordered(before, unclean).await
        } else {
            let hands = Hands::new(concurrency, memory, flow);
            Source::open(&self.bus, name, consumer.clone(), hands, to).await
        }
    }
}

impl<S: Send + Sync + 'static> Run<S> {
    async fn run(mut self, mut arriving: mpsc::Receiver<Item>, stop: &CancellationToken) {
        loop {
            let rested = self.resting.first_key_value().map(|((due, _), _)| *due);
            let due = rested.into_iter().chain(self.later).min();
            tokio::select! {
                () = stop.cancelled() => break,
                Some(finished) = self.running.join_next() => self.finish(unpanicked(finished)),
                Some(item) = arriving.recv() => self.admit(item),
                () = until(due), if due.is_some() => self.wake(),
                Some(asked) = self.asked.recv() => {
                    let figures = Figures::of(self.running.len(), self.resting.len(), &self.lanes);
                    // Who asked may have given up.
                    let _ = asked.send(figures);
                    continue;
                }
            }
            self.start();
            self.tell_sources();
        }
        self.board.drains();
        self.drain(arriving).await;
    }

    fn admit(&mut self, item: Item) {
        self.executor.tally().delivered();
        let key = self.ordered.then(|| key_of(&item.delivery, &item.arrival));
        let key = key.flatten();
        let priority = match item.delivery.is_redriven() {
            true => Priority::Replay,
            false => Priority::Live,
        };
        let turn = Turn { key, priority };
        if self.lanes.is_held_up(&turn) {
            item.hands.hold_up();
        }
        self.lanes.admit(turn, item);
    }

    /// Begins what is ready, as far as there is place, and circuit and rate let it.
    fn start(&mut self) {
        self.later = None;
        loop {
            match self.flow.begin(|| self.lanes.start()) {
                Begin::Begun((turn, item), permit) => self.attempt(turn, item, permit),
                Begin::Later(moment) => return self.later = Some(moment.into()),
                Begin::Nothing => return,
            }
        }
    }

    fn attempt(&mut self, turn: Turn, mut item: Item, permit: Permit) {
        let executor = Arc::clone(&self.executor);
        let parks = Arc::clone(&self.parks);
        let halt = self.halt.clone();
        self.running.spawn(async move {
            let key = turn.key.as_deref();
            let step = parks.run(&executor, &mut item, key, &halt, permit).await;
            Finished { turn, item, step }
        });
    }

    /// When the circuit has opened or closed, or waits for a probe, the sources ask for less or more.
    fn tell_sources(&mut self) {
        let pulls = self.flow.pulls();
        if pulls != self.pulls {
            self.pulls = pulls;
            for hands in &self.hands {
                hands.look_again();
            }
        }
    }

    fn finish(&mut self, finished: Finished) {
        let Finished { turn, item, step } = finished;
        if !matches!(step, Step::Again(_)) && self.lanes.is_held_up(&turn) {
            self.lanes.behind(&turn).for_each(|item| item.hands.go_on());
        }
        match step {
            Step::Over => {
                item.hands.release(item.arrival.at);
                self.lanes.finish(turn);
            }
            Step::Left => {
                item.hands.let_go(item.arrival.at);
                self.lanes.finish(turn);
            }
            Step::Again(after) => {
                self.lanes.rest(&turn);
                if self.lanes.hold_up(&turn) {
                    let behind = self.lanes.behind(&turn);
                    behind.for_each(|item| item.hands.hold_up());
                }
                self.rested += 1;
                let due = (Instant::now() + after, self.rested);
                self.resting.insert(due, (turn, item));
            }
        }
    }

    /// What has rested long enough is ready.
    fn wake(&mut self) {
        let now = Instant::now();
        while let Some(first) = self.resting.first_entry()
            && first.key().0 <= now
        {
            let (turn, item) = first.remove();
            self.lanes.again(turn, item);
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
            for item in &back {
                item.hands.let_go(item.arrival.at);
            }
            hand_back(&self.name, back.into_iter().map(|item| item.delivery)).await;
        }
        // Not at once, and not once it is halted: a sign that comes behind what is handed back would keep it from
        // others until the acknowledgement time is over.
        let mut progress = tokio::time::interval_at(Instant::now() + PROGRESS, PROGRESS);
        loop {
            let finished = tokio::select! {
                finished = self.running.join_next() => finished,
                _ = progress.tick(), if !self.halt.is_cancelled() => {
                    for hands in &self.hands {
                        tell_progress(&self.name, hands, Duration::ZERO).await;
                    }
                    continue;
                }
            };
            let Some(finished) = finished else { return };
            let Finished { item, step, .. } = unpanicked(finished);
            match step {
                Step::Over => item.hands.release(item.arrival.at),
                Step::Again(_) if !self.ordered => {
                    hand_back(&self.name, std::iter::once(item.delivery)).await;
                }
                // In order it stays in hand until the next one begins at the ack floor.
                Step::Left | Step::Again(_) => {}
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
