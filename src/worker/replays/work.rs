//! One replay that runs in this instance: its consumers and sources, its progress, and its end. Never decides which
//! event is replayed, and never handles one.

mod gone;
mod progress;

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use chrono::Utc;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use gone::another;
use progress::counts;

use super::{
    ReplayContext, Worked,
    filter::{Found, ReplayFilter},
    issue::Issue,
    rate_limiter::{Outlet, RateLimiter},
};
use crate::{
    executor::PROGRESS,
    handler::subscriber::MAX_CONCURRENCY,
    nats::{BusError, ConsumerSpec, ReplayConsumerState, StartFrom},
    observer::ReplayChange,
    replay::{
        Replay, ReplayProgress, ReplayRange, ReplayRequest, ReplayState,
        tag::{ReplayCounters, ReplayTag, Replaying},
    },
    worker::{
        answers::tell_progress, in_flight_table::InFlightTable, item::Item, lease::Handled,
        source::Source,
    },
};

/// How often the end is checked once nothing is in flight.
const LOOK: Duration = Duration::from_millis(200);
/// How often it is checked otherwise, and how often progress is written.
const SELDOM: Duration = Duration::from_secs(1);
/// How often it is checked whether the events in flight have ended.
const SETTLE: Duration = Duration::from_millis(20);
/// How long a delivery that is ack pending, but not in flight here, may be on its way.
const LOST: Duration = Duration::from_secs(5);
/// How many events are taken in ahead of the running ones, when there is no rate limit.
const AHEAD: usize = 256;
/// The same in a rehearsal, where none runs.
const AHEAD_IN_REHEARSAL: usize = 1_024;

/// Why a replay stops here.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Done,
    Failed(String),
    Cancelled,
    Paused,
    /// Its consumer was moved: the replay begins again there.
    Again,
    /// The worker stops.
    Stopped,
    /// Another instance may run it.
    Lost,
}

/// The result of waiting for the events in flight.
enum Settled {
    /// All awaited events have ended; these were handled above the ack floors.
    For(Handled),
    /// The replay is to continue, and some events are still in flight.
    Resumed,
}

pub(super) struct Work<'a, S> {
    context: &'a ReplayContext<S>,
    replay: Replay,
    replaying: Arc<Replaying>,
    progress: ReplayProgress,
    /// The revision of the progress.
    revision: u64,
    written_at: Instant,
    is_written: bool,
    /// Throttles the log: the progress cannot be written.
    unwritten: Issue,
    parts: Vec<Part>,
    sources: JoinSet<(String, Arc<InFlightTable>)>,
    limiter: JoinSet<()>,
    limiting: CancellationToken,
    found: Arc<Found>,
    /// What is still in flight of each stream after a short pause.
    kept: BTreeMap<String, Arc<InFlightTable>>,
}

/// The part of one stream.
struct Part {
    range: ReplayRange,
    in_flight: Arc<InFlightTable>,
    pulling: CancellationToken,
    looked_at: Instant,
    /// Since when deliveries are ack pending but not in flight, although the whole range was delivered.
    lost_since: Option<Instant>,
    is_over: bool,
}

impl<'a, S: Send + Sync + 'static> Work<'a, S> {
    /// Continues at the progress that the previous instance has written.
    pub(super) async fn new(
        context: &'a ReplayContext<S>,
        replay: Replay,
    ) -> Result<Self, BusError> {
        let entry = context.bus.replay_progress(&replay).await?;
        let revision = entry.as_ref().map_or(0, |entry| entry.revision);
        let mut progress = entry.map(|entry| entry.value).unwrap_or_default();
        progress.began_at.get_or_insert_with(Utc::now);
        let found = Arc::new(Found::default());
        *found.rehearsal() = progress.rehearsal.clone().unwrap_or_default();
        let counters = context.registry.of(replay.id);
        for (what, count) in counts(&mut progress) {
            counters.set(what, *count);
        }
        let tag = ReplayTag {
            id: replay.id,
            shadow: replay.request.shadow.clone(),
            follow_ups: replay.request.follow_ups,
        };
        Ok(Self {
            context,
            replaying: Arc::new(Replaying {
                is_retry: false,
                counters,
                ..tag.retried(&context.name)
            }),
            replay,
            progress,
            revision,
            written_at: Instant::now(),
            is_written: revision > 0,
            unwritten: Issue::default(),
            parts: Vec::new(),
            sources: JoinSet::new(),
            limiter: JoinSet::new(),
            limiting: CancellationToken::new(),
            found,
            kept: BTreeMap::new(),
        })
    }

    /// Runs until the replay has ended, is paused, or is told to stop.
    pub(super) async fn run(
        mut self,
        entry: &mut watch::Receiver<Replay>,
        lost: &CancellationToken,
    ) -> Result<Worked, BusError> {
        loop {
            let end = match self.open().await {
                Ok(Some(why)) => End::Failed(why),
                Ok(None) => self.watch(entry, lost).await,
                Err(error) => {
                    // Events may be in flight since a pause.
                    self.settle(&End::Again, entry, lost).await;
                    return Err(error);
                }
            };
            if matches!(end, End::Cancelled) {
                self.replaying.counters.cancel();
            }
            match self.settle(&end, entry, lost).await {
                Settled::For(handled) => return self.conclude(end, handled).await,
                Settled::Resumed => self.go_on(),
            }
        }
    }

    /// Keeps the events in flight, and starts to pull again.
    fn go_on(&mut self) {
        self.limiting = CancellationToken::new();
        for part in self.parts.drain(..) {
            // Events that were handed back are redelivered.
            part.in_flight.begin_again();
            self.kept.insert(part.range.stream, part.in_flight);
        }
    }

    /// Starts to pull; returns the reason when that can never succeed.
    async fn open(&mut self) -> Result<Option<String>, BusError> {
        let (fed, from) = mpsc::channel(MAX_CONCURRENCY);
        let direct = self.direct();
        let is_fed = direct.is_none();
        let to = direct.unwrap_or(fed);
        let mut sources = Vec::new();
        for range in self.replay.ranges.clone() {
            if let Some(why) = self.is_another(&range).await? {
                return Ok(Some(why));
            }
            let floor = self.progress.floor(&range.stream);
            if floor >= range.last {
                continue;
            }
            let (durable, names) = (self.replay.consumer(), range.names.clone());
            let consumer =
                ConsumerSpec::new(&*range.stream, durable, names).of_replay(self.replay.id);
            let start = StartFrom::Sequence(range.first.max(floor.saturating_add(1)));
            self.context.bus.restore_consumer(&consumer, start).await?;
            let kept = self.kept.remove(&range.stream);
            let in_flight = kept.unwrap_or_else(|| Arc::new(self.in_flight()));
            let (bus, name) = (&self.context.bus, &self.context.name);
            let request = &self.replay.request;
            let filter = ReplayFilter::new(
                &range,
                request,
                &self.replaying,
                self.context.executor.ends(),
                &self.found,
            );
            let opening = Source::open(bus, name, consumer, in_flight, filter, to.clone());
            let mut source = opening.await?;
            if !source.is_of(&range.incarnation) {
                return Ok(Some(another(&range)));
            }
            if self.context.subscriber.ordered {
                source = source
                    .ordered(&self.context.before, self.context.unclean)
                    .await?;
            }
            self.parts.push(Part {
                in_flight: Arc::clone(source.in_flight()),
                pulling: CancellationToken::new(),
                looked_at: Instant::now(),
                lost_since: None,
                is_over: false,
                range,
            });
            sources.push(source);
        }
        if is_fed {
            let Some(outlet) = self.outlet() else {
                return Ok(None);
            };
            let (ends, ordered) = (
                self.context.executor.ends(),
                self.context.subscriber.ordered,
            );
            let request = &self.replay.request;
            let limiter = RateLimiter::new(ends, ordered, request, outlet, &self.found);
            self.limiter.spawn(limiter.run(from, self.limiting.clone()));
        }
        for (part, source) in self.parts.iter().zip(sources) {
            let halted = CancellationToken::new();
            self.sources.spawn(source.run(part.pulling.clone(), halted));
        }
        let completed = self.progress.completed();
        self.context
            .record(self.replay.id, ReplayChange::Running { completed });
        Ok(None)
    }

    /// The sender to the runner, when no rate limiter is between it and the sources.
    fn direct(&self) -> Option<mpsc::Sender<Item>> {
        let ReplayRequest { rehearse, rate, .. } = &self.replay.request;
        let is_direct = !rehearse && rate.is_none();
        is_direct.then(|| self.context.runner.upgrade()).flatten()
    }

    /// Where its events go; `None` when the runner has ended.
    fn outlet(&self) -> Option<Outlet<S>> {
        match self.replay.request.rehearse {
            true => Some(Outlet::Report(Arc::clone(&self.context.executor))),
            false => self.context.runner.upgrade().map(Outlet::Runner),
        }
    }

    fn in_flight(&self) -> InFlightTable {
        let (subscriber, at_once) = (&self.context.subscriber, self.context.at_once());
        let request = &self.replay.request;
        let capacity = match () {
            () if request.rehearse => AHEAD_IN_REHEARSAL,
            // Events taken in ahead wait, and progress is sent for them all the while.
            () if request.rate.is_some() => at_once,
            () => at_once.max(AHEAD),
        };
        let memory = subscriber.memory / self.replay.ranges.len().max(1);
        let throttle = Arc::clone(self.context.executor.throttle());
        InFlightTable::new(capacity.min(MAX_CONCURRENCY), memory, throttle)
    }

    fn counters(&self) -> &Arc<ReplayCounters> {
        &self.replaying.counters
    }

    /// Looks after the replay until something ends it.
    async fn watch(
        &mut self,
        entry: &mut watch::Receiver<Replay>,
        lost: &CancellationToken,
    ) -> End {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let counters = Arc::clone(self.counters());
        let mut failure = pin!(counters.failure());
        loop {
            tokio::select! {
                biased;
                () = lost.cancelled() => return End::Lost,
                () = self.context.stop.cancelled() => return End::Stopped,
                why = &mut failure => return End::Failed(why),
                changed = entry.changed() => {
                    if let Some(end) = end_of(changed.is_ok(), entry) {
                        return end;
                    }
                }
                _ = looks.tick() => {
                    if let Some(end) = self.look().await {
                        return end;
                    }
                }
            }
        }
    }

    /// Checks how far the replay is.
    async fn look(&mut self) -> Option<End> {
        let is_at_end = self.found.is_at_end();
        let mut unknown = None;
        for at in 0..self.parts.len() {
            let part = &self.parts[at];
            let held = part.in_flight.held().0;
            let is_idle = held == 0;
            if part.pulling.is_cancelled() && !part.is_over {
                return Some(End::Again);
            }
            if part.is_over || !is_idle && !is_at_end && part.looked_at.elapsed() < SELDOM {
                continue;
            }
            let state = self
                .context
                .bus
                .consumer_state_of(&part.range.stream, &self.replay)
                .await;
            let state = match state {
                Ok(Some(state)) => state,
                Ok(None) => match self.is_another(&part.range).await {
                    Ok(Some(why)) => return Some(End::Failed(why)),
                    // Its source recreates it.
                    Ok(None) => continue,
                    Err(error) => {
                        unknown = Some(error.to_string());
                        continue;
                    }
                },
                Err(error) => {
                    unknown = Some(error.to_string());
                    continue;
                }
            };
            let part = &mut self.parts[at];
            part.looked_at = Instant::now();
            let last = part.range.last;
            part.note_delivered(&state, held);
            let is_empty = state.pending == 0 && state.in_flight == 0;
            // The server counts an ack a moment later.
            part.is_over = is_idle && (state.floor >= last || is_empty);
            let floor = match part.is_over {
                true => last,
                false => state.floor,
            };
            if part.is_over {
                part.pulling.cancel();
            }
            let stream = part.range.stream.clone();
            self.note_floor(stream, floor);
        }
        self.note_issue(unknown);
        if self.written_at.elapsed() >= SELDOM {
            self.write_progress().await;
        }
        let is_over = self.parts.iter().all(|part| part.is_over);
        is_over.then_some(End::Done)
    }

    /// Stops pulling, and waits until the events in flight have ended, where that is useful, or until a pause is over.
    async fn settle(
        &mut self,
        end: &End,
        entry: &mut watch::Receiver<Replay>,
        lost: &CancellationToken,
    ) -> Settled {
        self.limiting.cancel();
        self.parts.iter().for_each(|part| part.pulling.cancel());
        let mut ended: BTreeMap<String, Arc<InFlightTable>> = BTreeMap::new();
        while let Some(source) = self.sources.join_next().await {
            ended.extend(source);
        }
        while self.limiter.join_next().await.is_some() {}
        if matches!(end, End::Paused | End::Again | End::Stopped) {
            self.write_progress().await;
            let tables = self.parts.iter().map(|part| &part.in_flight);
            let tables: Vec<_> = tables.chain(self.kept.values()).cloned().collect();
            let mut progress = tokio::time::interval(PROGRESS / 2);
            let mut looks = tokio::time::interval(SETTLE);
            loop {
                tokio::select! {
                    () = lost.cancelled() => break,
                    () = self.context.ended.cancelled() => break,
                    changed = entry.changed(), if *end != End::Stopped => {
                        if matches!(end_of(changed.is_ok(), entry), Some(End::Cancelled)) {
                            self.counters().cancel();
                        }
                        if changed.is_err() {
                            break;
                        }
                        let is_running = entry.borrow().state == ReplayState::Running;
                        if *end == End::Paused && is_running {
                            return Settled::Resumed;
                        }
                    }
                    _ = progress.tick() => for in_flight in &tables {
                        tell_progress(&self.context.name, in_flight, PROGRESS / 4).await;
                    },
                    _ = looks.tick() => if tables.iter().all(|in_flight| in_flight.held().0 == 0) {
                        break;
                    },
                }
            }
        }
        let handled = ended
            .into_iter()
            .map(|(stream_id, in_flight)| (stream_id, in_flight.handled()));
        Settled::For(handled.collect())
    }

    /// Writes the result to the bucket.
    async fn conclude(mut self, end: End, handled: Handled) -> Result<Worked, BusError> {
        let stopped = ReplayChange::Stopped { end: &end };
        self.context.record(self.replay.id, stopped);
        if end == End::Lost {
            return Ok(Worked::For(handled));
        }
        if matches!(end, End::Paused | End::Again | End::Stopped) {
            self.note_floors().await;
        }
        if end != End::Stopped {
            self.is_written &= self.progress.issue.take().is_none();
        }
        let end = match end {
            End::Done => self.is_done().await?,
            end => end,
        };
        if end == End::Done {
            self.count_gone().await?;
        }
        self.write_progress().await;
        // If the progress is not written now, no instance writes it later.
        if end == End::Done && !self.is_written {
            self.put_progress().await?;
        }
        let state = match end {
            End::Done => (ReplayState::Done, None),
            End::Failed(why) => (ReplayState::Failed, Some(why)),
            End::Cancelled => (ReplayState::Cancelled, None),
            End::Paused | End::Again | End::Stopped | End::Lost => return Ok(Worked::For(handled)),
        };
        self.context.write_end(self.replay.id, state).await?;
        self.replaying.counters.end();
        self.context.clean_up(&self.replay).await?;
        Ok(Worked::Over)
    }
}

impl Part {
    /// Nothing is pulled from beyond the range, unless an event of the range was lost on its way and is redelivered.
    /// `held` was read before the server was asked: an event that ends in between is not lost.
    fn note_delivered(&mut self, state: &ReplayConsumerState, held: usize) {
        let has_come = state.delivered >= self.range.last;
        let lost = usize::try_from(state.in_flight).map_or(0, |it| it.saturating_sub(held));
        let since = self.lost_since.take().filter(|_| has_come && lost > 0);
        let since = since.or_else(|| (has_come && lost > 0).then(Instant::now));
        self.lost_since = since;
        let is_lost = since.is_some_and(|since| since.elapsed() > LOST);
        self.in_flight
            .has_come(has_come, if is_lost { lost } else { 0 });
    }
}

/// What a change of the entry means for the instance that runs the replay.
fn end_of(is_there: bool, entry: &mut watch::Receiver<Replay>) -> Option<End> {
    if !is_there {
        return Some(End::Stopped);
    }
    match entry.borrow_and_update().state {
        ReplayState::Running | ReplayState::Unknown => None,
        ReplayState::Paused => Some(End::Paused),
        ReplayState::Cancelled | ReplayState::Done | ReplayState::Failed => Some(End::Cancelled),
    }
}
