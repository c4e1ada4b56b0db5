//! Runs what the sources of one subscriber deliver, up to its concurrency, in the order of each key where that is
//! wanted. Never pulls, and never decides an outcome.

mod drain;
mod gauges;
mod sources;
mod unhandled;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    batcher::Batcher,
    crash_guard::CrashGuard,
    floors::Floors,
    in_flight_table::InFlightTable,
    item::Item,
    lease::{Handled, Lease},
    live::Live,
    parks::{Parks, key_of, may_pass},
    replays::{ReplayContext, ReplayRegistry, Replays},
    source::until,
    status_reporter::{FigureRequests, StatusReporter},
    task_pool::{Begun, Dependencies, Finished, TaskPool},
};
use crate::{
    executor::{
        Disposition, Executor,
        throttle::{Begin, Pulls, Throttle},
    },
    handler::subscriber::{EventSubscriber, MAX_CONCURRENCY},
    nats::{Bus, BusError, ConsumerSpec},
    policy::{
        breaker::Attempted,
        lanes::{Lanes, Priority, Ticket},
    },
    replay::tag::{ReplayId, Replaying},
    task::yielding::yield_to_ready,
};

pub(super) use sources::at_once;

/// How many deliveries are taken in at a time.
const AT_A_TIME: usize = 256;

/// The pause before a subscriber that cannot begin is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// The parts of one subscriber.
pub(super) struct Runner<S> {
    pub(super) bus: Bus,
    pub(super) subscriber: Arc<EventSubscriber<S>>,
    pub(super) executor: Arc<Executor<S>>,
    pub(super) reporter: Arc<StatusReporter>,
    pub(super) consumers: Vec<ConsumerSpec>,
    pub(super) floors: Arc<Floors>,
}

/// An active subscriber.
struct Run<S> {
    name: Arc<str>,
    parks: Arc<Parks>,
    executor: Arc<Executor<S>>,
    ordered: bool,
    subscriber: Arc<EventSubscriber<S>>,
    /// How many events are handled at once, as the lanes and sources know it.
    concurrency: usize,
    lanes: Lanes<Item>,
    /// The events that wait for their batch.
    batcher: Batcher<(usize, Option<ReplayId>), Begun>,
    tasks: TaskPool<S>,
    /// Events that are being left to other instances.
    leaving: JoinSet<()>,
    /// The events that are run again later, by time.
    resting: BTreeMap<(Instant, u64), (Ticket, Item)>,
    rested: u64,
    throttle: Arc<Throttle>,
    /// When an event may begin that may not begin now.
    later: Option<Instant>,
    /// How much the sources may request, as they were last notified.
    pulls: Pulls,
    /// What is in flight, for each source.
    in_flight: Vec<Arc<InFlightTable>>,
    reporter: Arc<StatusReporter>,
    requests: FigureRequests,
    halt: CancellationToken,
}

impl<S: Send + Sync + 'static> Runner<S> {
    /// Runs until `stop` is cancelled and everything in flight is settled; what still runs when `halt` is cancelled is
    /// handed back.
    pub(super) async fn run(self, stop: CancellationToken, halt: CancellationToken) {
        let mut known = Handled::new();
        self.floors.look(&self.bus, &self.consumers).await;
        while !stop.is_cancelled() {
            let worked = if self.subscriber.ordered {
                self.work_alone(&mut known, &stop, &halt).await
            } else {
                let worked = self.work(&Handled::new(), 0, &stop, &halt).await;
                worked.map(drop)
            };
            self.reporter.ended();
            if let Err(error) = worked {
                self.reporter.cannot_begin(error.to_string());
                stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
            }
        }
    }

    /// Works as long as this instance holds the lease. When the lease is lost, what was handled is still known here: it
    /// was not passed on to the next holder, and that may be this instance again.
    async fn work_alone(
        &self,
        known: &mut Handled,
        stop: &CancellationToken,
        halt: &CancellationToken,
    ) -> Result<(), BusError> {
        if let Some(consumer) = self.consumers.last() {
            self.bus.open_state(&consumer.stream).await?;
        }
        let lease = Lease::new(&self.bus, self.subscriber.name(), self.executor.observers());
        self.reporter.stands_by();
        let tell = |why_not| self.reporter.knows_lease(why_not);
        let acquiring = lease.acquire(stop, tell);
        let watched = self.floors.watch(&self.bus, &self.consumers, acquiring);
        let Some(mut tenure) = watched.await else {
            return Ok(());
        };
        self.reporter.has_lease();
        let (stop, halt) = (stop.child_token(), halt.child_token());
        let mut before = std::mem::take(&mut tenure.handled);
        for (stream_id, handled) in std::mem::take(known) {
            before.entry(stream_id).or_default().extend(handled);
        }
        let unclean = tenure.unclean;
        let mut working = std::pin::pin!(self.work(&before, unclean, &stop, &halt));
        let worked = tokio::select! {
            worked = &mut working => worked,
            () = lease.hold(&mut tenure) => {
                self.reporter.drains();
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
            // It has handled nothing: what was passed on to it is still all that is known.
            Err(error) => (before.clone(), Err(error)),
        };
        lease.release(&tenure, handled).await;
        worked
    }

    /// Works until it is told to stop, and returns what it has handled above the ack floors.
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
        let crash_guard = CrashGuard::new(&self.bus, &name, retries);
        let parks = Parks::open(
            &self.bus,
            &self.subscriber,
            crash_guard,
            &self.reporter,
            self.executor.observers(),
        )
        .await?;
        let registry = Arc::new(ReplayRegistry::default());
        let intake = Live {
            bus: self.bus.clone(),
            registry: Arc::clone(&registry),
            ends: self.executor.ends().clone(),
        };
        let (consumers, start) = (&self.consumers, self.subscriber.start);
        self.floors.restore(&self.bus, consumers, start).await?;
        let mut opened = Vec::new();
        for consumer in consumers {
            let source = self.source(&name, consumer, intake.clone(), to.clone());
            opened.push(source.await?);
        }
        let mut sources = JoinSet::new();
        let mut in_flight = Vec::new();
        // No consumer is reset before all of them exist.
        for mut source in opened {
            if self.subscriber.ordered {
                source = source.ordered(before, unclean).await?;
            }
            in_flight.push(Arc::clone(source.in_flight()));
            sources.spawn(source.run(stop.clone(), halt.clone()));
        }
        let ended = CancellationToken::new();
        let _ended = ended.clone().drop_guard();
        let mut replays = JoinSet::new();
        replays.spawn(Replays::run(
            ReplayContext {
                bus: self.bus.clone(),
                name: Arc::clone(&name),
                subscriber: Arc::clone(&self.subscriber),
                executor: Arc::clone(&self.executor),
                registry,
                runner: to.downgrade(),
                before: before.clone(),
                unclean,
                reporter: Arc::clone(&self.reporter),
                stop: stop.clone(),
                ended: ended.clone(),
            },
            to,
        ));
        let dependencies = Dependencies {
            executor: Arc::clone(&self.executor),
            parks: Arc::clone(&parks),
            halt: halt.clone(),
        };
        let run = Run {
            name,
            parks,
            executor: Arc::clone(&self.executor),
            ordered: self.subscriber.ordered,
            subscriber: Arc::clone(&self.subscriber),
            concurrency: 0,
            lanes: Lanes::new(0),
            batcher: Batcher::default(),
            tasks: TaskPool::new(dependencies),
            leaving: JoinSet::new(),
            resting: BTreeMap::new(),
            rested: 0,
            throttle: Arc::clone(self.executor.throttle()),
            later: None,
            pulls: Pulls::All,
            requests: self.reporter.works(&in_flight),
            reporter: Arc::clone(&self.reporter),
            in_flight,
            halt: halt.clone(),
        };
        run.run(arriving, stop).await;
        ended.cancel();
        let mut handled = Handled::new();
        while let Some(ended) = replays.join_next().await {
            handled.extend(unpanicked(ended));
        }
        while let Some(ended) = sources.join_next().await {
            let (stream_id, in_flight) = unpanicked(ended);
            handled.insert(stream_id, in_flight.handled());
        }
        Ok(handled)
    }
}

impl<S: Send + Sync + 'static> Run<S> {
    async fn run(mut self, mut arriving: mpsc::Receiver<Item>, stop: &CancellationToken) {
        let mut came = Vec::with_capacity(AT_A_TIME);
        self.adjust();
        loop {
            let due = self.due();
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.tasks.has_done() => {}
                1.. = arriving.recv_many(&mut came, AT_A_TIME) => {}
                () = until(due), if due.is_some() => self.wake(),
                Some(request) = self.requests.recv() => {
                    let figures = self.figures();
                    // The requester may have timed out.
                    let _ = request.send(figures);
                    self.adjust();
                }
            }
            yield_to_ready().await;
            for finished in self.tasks.take_done() {
                self.finish(finished);
            }
            while came.len() < AT_A_TIME
                && let Ok(item) = arriving.try_recv()
            {
                came.push(item);
            }
            came.drain(..).for_each(|item| self.admit(item));
            self.start();
            self.tell_sources();
            self.gauge();
        }
        self.reporter.drains();
        self.drain(arriving).await;
    }

    fn admit(&mut self, item: Item) {
        self.executor.ends().arrived();
        if !self.ordered && !self.is_ours(&item) {
            self.leave(item);
            return;
        }
        let key = self.ordered.then(|| key_of(&item));
        let key = key.flatten();
        let priority = match item.ack.is_redriven() || item.delivery.replay.is_some() {
            true => Priority::Replay,
            false => Priority::Live,
        };
        let ticket = Ticket { key, priority };
        if self.lanes.is_held_up(&ticket) {
            item.in_flight.hold_up();
        }
        self.lanes.admit(ticket, item);
    }

    /// When the next resting event, permit or batch is due.
    fn due(&self) -> Option<Instant> {
        let rested = self.resting.first_key_value().map(|((due, _), _)| *due);
        // A batch that is due has to wait for free concurrency.
        let batch = self.batcher.due().filter(|_| self.has_free_task());
        rested.into_iter().chain(self.later).chain(batch).min()
    }

    /// How many events are being handled.
    fn attempts(&self) -> usize {
        self.lanes.running() - self.batcher.len()
    }

    fn has_free_task(&self) -> bool {
        self.tasks.at_work() < self.concurrency
    }

    /// Begins ready events, as far as concurrency, circuit and rate limit allow.
    fn start(&mut self) {
        self.later = None;
        if self.throttle.pulls() != Pulls::All {
            self.flush();
            if !self.has_free_task() {
                return;
            }
        }
        let now = Instant::now();
        loop {
            match self.throttle.begin(|| self.lanes.start()) {
                Begin::Begun((ticket, item), permit) => self.begin(
                    Begun {
                        ticket,
                        item,
                        permit,
                    },
                    now,
                ),
                Begin::Later(moment) => {
                    self.later = Some(moment.into());
                    break;
                }
                Begin::Nothing => break,
            }
        }
        while self.has_free_task()
            && let Some(batch) = self.batcher.ready(now)
        {
            self.attempt_batch(batch);
        }
    }

    /// An event that became void while it waited for its batch is settled without it.
    fn attempt_batch(&mut self, mut batch: Vec<Begun>) {
        if batch.iter().any(is_void) {
            for void in batch.extract_if(.., |begun| is_void(begun)) {
                self.tasks.attempt(void);
            }
        }
        if !batch.is_empty() {
            self.tasks.attempt_batch(batch);
        }
    }

    /// Attempts an event, or adds it to its batch. A probe does not wait for other events, and a suspect runs alone.
    fn begin(&mut self, begun: Begun, now: Instant) {
        let envelope = begun.item.delivery.event();
        let replay = begun.item.delivery.replay.as_deref();
        let batching = envelope.and_then(|envelope| self.subscriber.batching(envelope, replay));
        let (key, item) = (begun.ticket.key.as_deref(), &begun.item);
        let is_alone = begun.permit.is_probe()
            || item.delivery.is_suspect
            || is_void(&begun)
            || self.parks.concerns(key, &item.ack);
        match batching.filter(|_| !is_alone) {
            Some((handler, batching)) => {
                let of = (handler, replay.map(|replay| replay.tag.id));
                self.batcher.add(of, batching, begun, now);
            }
            None => self.tasks.attempt(begun),
        }
    }

    /// While the circuit is open no batch begins: the events that wait for one wait for the circuit.
    fn flush(&mut self) {
        for Begun {
            ticket,
            item,
            permit,
        } in self.batcher.abandon()
        {
            self.throttle
                .end(permit, &item.delivery.subject, Attempted::Void, None);
            self.lanes.rest(&ticket);
            self.lanes.again(ticket, item);
        }
    }

    /// When the circuit has opened or closed, or waits for a probe, the sources request less or more.
    fn tell_sources(&mut self) {
        let pulls = self.throttle.pulls();
        if pulls != self.pulls {
            self.pulls = pulls;
            for in_flight in &self.in_flight {
                in_flight.look_again();
            }
        }
    }

    fn finish(&mut self, finished: Finished) {
        let Finished {
            ticket,
            mut item,
            disposition,
        } = finished;
        let gives_way = matches!(disposition, Disposition::RetryLocally(_))
            && self.parks.gives_way(ticket.key.as_deref(), &item.ack)
            && self.lanes.behind(&ticket).any(may_pass);
        if (gives_way || !matches!(disposition, Disposition::RetryLocally(_)))
            && self.lanes.is_held_up(&ticket)
        {
            self.lanes
                .behind(&ticket)
                .for_each(|item| item.in_flight.go_on());
        }
        if gives_way {
            let stays = self.lanes.give_way(ticket, item, may_pass);
            debug_assert!(stays.is_none(), "something may pass");
            return;
        }
        match disposition {
            Disposition::Settled => {
                self.end_unhandled_wait(&item);
                item.in_flight.release(item.delivery.position);
                self.lanes.finish(ticket);
            }
            Disposition::Abandoned => {
                self.end_unhandled_wait(&item);
                item.in_flight.let_go(item.delivery.position);
                self.lanes.finish(ticket);
            }
            Disposition::RetryLocally(after) => {
                self.begin_unhandled_wait(&mut item);
                self.lanes.rest(&ticket);
                if self.lanes.hold_up(&ticket) {
                    let behind = self.lanes.behind(&ticket);
                    behind.for_each(|item| item.in_flight.hold_up());
                }
                self.rested += 1;
                let due = (Instant::now() + after, self.rested);
                self.resting.insert(due, (ticket, item));
            }
        }
    }

    /// Makes events ready that have rested long enough.
    fn wake(&mut self) {
        let now = Instant::now();
        while let Some(first) = self.resting.first_entry()
            && first.key().0 <= now
        {
            let (ticket, item) = first.remove();
            self.lanes.again(ticket, item);
        }
    }
}

/// Whether nothing more is to be done about an event.
fn is_void(begun: &Begun) -> bool {
    let replay = begun.item.delivery.replay.as_deref();
    replay.is_some_and(Replaying::is_void)
}

/// Panics of handlers are caught where they are called: this one is a panic of the library.
fn unpanicked<T>(ended: Result<T, JoinError>) -> T {
    match ended {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
