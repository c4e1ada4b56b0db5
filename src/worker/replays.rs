//! The replays of one subscriber: finds them, and runs each one that this instance may run. Never handles an event:
//! replayed events go to the runner, beside the live ones.

mod filter;
mod issue;
mod rate_limiter;
mod registry;
mod work;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use chrono::{TimeDelta, Utc};
use futures::StreamExt;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    item::Item,
    lease::{Handled, Lease},
    runner::at_once,
    status_reporter::StatusReporter,
};
use crate::{
    executor::Executor,
    handler::subscriber::EventSubscriber,
    nats::{Bus, BusError, Holds, keys},
    observer::{Observation, ReplayChange},
    replay::{Replay, ReplayState, tag::ReplayId},
};
use issue::Issue;
pub(super) use registry::ReplayRegistry;
use work::Work;

/// How often replays are looked up without a notification.
const LOOK: Duration = Duration::from_secs(5);
/// How soon, and how many times, they are looked up after a notification: it arrives before the entry is stored.
const SOON: Duration = Duration::from_millis(100);
const TIMES: u32 = 3;
/// How often all entries are read again, in case the bucket was replaced.
const ALL: Duration = Duration::from_secs(600);
/// A replay that ended longer ago has most likely left nothing behind, and is not urgent.
const LATELY: TimeDelta = TimeDelta::hours(1);
/// The pause after a replay was removed or its cleanup failed, and the longest pause between cleanups.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The dependencies of a replay.
pub(super) struct ReplayContext<S> {
    pub(super) bus: Bus,
    pub(super) name: Arc<str>,
    pub(super) subscriber: Arc<EventSubscriber<S>>,
    pub(super) executor: Arc<Executor<S>>,
    pub(super) registry: Arc<ReplayRegistry>,
    /// Weak: the runner waits until no sender is left, and replays wait for the events that the runner has of them.
    pub(super) runner: mpsc::WeakSender<Item>,
    /// What the previous instance has handled above the ack floors; only for an ordered subscriber.
    pub(super) before: Handled,
    pub(super) unclean: u32,
    pub(super) reporter: Arc<StatusReporter>,
    /// Cancelled when nothing more may begin.
    pub(super) stop: CancellationToken,
    /// Cancelled when the runner has nothing in flight any more.
    pub(super) ended: CancellationToken,
}

impl<S: Send + Sync + 'static> ReplayContext<S> {
    /// How many events are begun at once.
    fn at_once(&self) -> usize {
        at_once(&self.subscriber, self.executor.throttle().concurrency())
    }
}

/// The result of running a replay.
enum Worked {
    /// It has ended.
    Over,
    /// It may continue, here or elsewhere; this was handled above the ack floors.
    For(Handled),
}

/// The replays of a subscriber.
pub(super) struct Replays<S> {
    context: Arc<ReplayContext<S>>,
    /// Everything up to this revision of the bucket is known.
    revision: u64,
    all_at: Instant,
    /// After a new connection the bucket may be an older copy, with other entries at the known revisions.
    lost: watch::Receiver<u64>,
    /// Those that have not ended, each with a channel to the task that runs it.
    open: HashMap<ReplayId, watch::Sender<Replay>>,
    /// Those that have ended and were taken care of.
    over: HashSet<ReplayId>,
    /// Those of them that had ended long before this instance saw them.
    long_over: Vec<Replay>,
    /// Those that need a shadow which this instance lacks.
    left: HashSet<ReplayId>,
    running: JoinSet<Handled>,
    handled: Handled,
    is_known_to_fail: bool,
}

impl<S: Send + Sync + 'static> Replays<S> {
    /// Runs until it is told to stop and the runner has nothing in flight any more. Returns what was handled above the
    /// ack floors.
    pub(super) async fn run(context: ReplayContext<S>, runner: mpsc::Sender<Item>) -> Handled {
        let context = Arc::new(context);
        let stop = context.stop.clone();
        let lost = context.bus.losses();
        let mut replays = Self {
            context,
            revision: 0,
            all_at: Instant::now(),
            lost,
            open: HashMap::new(),
            over: HashSet::new(),
            long_over: Vec::new(),
            left: HashSet::new(),
            running: JoinSet::new(),
            handled: Handled::new(),
            is_known_to_fail: false,
        };
        stop.run_until_cancelled(replays.watch()).await;
        drop(runner);
        while let Some(ended) = replays.running.join_next().await {
            replays.note_end(ended);
        }
        replays.handled
    }

    async fn watch(&mut self) {
        let keys = keys::subject(&keys::replay(&self.context.name, &"*"));
        let heard = self.context.bus.questions(&keys).await;
        let mut heard = match heard {
            Ok(heard) => heard.map(drop).boxed(),
            Err(error) => {
                tracing::debug!(%error, "replay changes not received: replays are polled");
                futures::stream::pending().boxed()
            }
        };
        let mut soon = 0;
        loop {
            if let Err(error) = self.look().await {
                self.cannot_look(&error);
            } else {
                self.is_known_to_fail = false;
                self.context.reporter.knows_replays(None);
            }
            let pause = if soon > 0 { SOON } else { LOOK };
            tokio::select! {
                Some(()) = heard.next() => soon = TIMES,
                Some(ended) = self.running.join_next() => self.note_end(ended),
                () = tokio::time::sleep(pause) => soon = soon.saturating_sub(1),
            }
        }
    }

    fn cannot_look(&mut self, error: &BusError) {
        let subscriber = &*self.context.name;
        self.context.reporter.knows_replays(Some(error.to_string()));
        match std::mem::replace(&mut self.is_known_to_fail, true) {
            false => tracing::warn!(subscriber, %error, "replay lookup failed"),
            true => {
                tracing::debug!(subscriber, %error, "replay lookup still failing")
            }
        }
    }

    /// Reads the entries that were written since the last look.
    async fn look(&mut self) -> Result<(), BusError> {
        let was_lost = self.lost.has_changed().unwrap_or(false);
        if was_lost || self.all_at.elapsed() > ALL {
            self.lost.mark_unchanged();
            self.all_at = Instant::now();
            self.revision = 0;
        }
        let bus = self.context.bus.clone();
        let name = Arc::clone(&self.context.name);
        while let Some(entry) = bus.next_replay(Some(&name), self.revision).await? {
            self.revision = entry.revision;
            match entry.value {
                Holds::Value(replay) => self.note(replay),
                Holds::Nothing => {}
                Holds::Bad(entry) => self.context.reporter.skips(entry),
            }
        }
        if !self.long_over.is_empty() {
            let long_over = std::mem::take(&mut self.long_over);
            self.clean_up(long_over);
        }
        Ok(())
    }

    /// Cleans up these replays, one after the other.
    fn clean_up(&mut self, over: Vec<Replay>) {
        let context = Arc::clone(&self.context);
        self.running.spawn(async move {
            for replay in &over {
                context.leave_nothing(replay).await;
            }
            Handled::new()
        });
    }

    fn note(&mut self, replay: Replay) {
        let id = replay.id;
        self.context.registry.note(&replay);
        if replay.state.is_final() {
            let was_open = self.open.remove(&id);
            let is_run = was_open.is_some_and(|open| open.send(replay.clone()).is_ok());
            // The instance that ran it may have died before the cleanup.
            let is_new = self.over.insert(id);
            if is_new && !is_run {
                match Utc::now() - replay.state_at < LATELY {
                    true => self.clean_up(vec![replay]),
                    false => self.long_over.push(replay),
                }
            }
            return;
        }
        if let Some(open) = self.open.get(&id) {
            open.send_replace(replay);
            return;
        }
        let shadow = replay.request.shadow.as_ref();
        if shadow.is_some_and(|shadow| !self.context.subscriber.shadows().contains_key(shadow)) {
            self.leave(id, shadow);
            return;
        }
        let (open, entry) = watch::channel(replay);
        self.open.insert(id, open);
        let context = Arc::clone(&self.context);
        self.running.spawn(context.see_to(entry));
    }

    /// Logs once that a replay is left to an instance with its shadow. For an ordered subscriber no other instance is
    /// active.
    fn leave(&mut self, id: ReplayId, shadow: Option<&String>) {
        if !self.left.insert(id) {
            return;
        }
        let subscriber = &*self.context.name;
        match self.context.subscriber.ordered {
            true => {
                tracing::warn!(subscriber, replay = %id, shadow, "replay shadow missing: it waits for an instance that has the shadow");
            }
            false => {
                tracing::info!(subscriber, replay = %id, shadow, "replay left to another instance: its shadow is not here");
            }
        }
    }

    fn note_end(&mut self, ended: Result<Handled, tokio::task::JoinError>) {
        match ended {
            Ok(handled) => self.handled.extend(handled),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }
}

impl<S: Send + Sync + 'static> ReplayContext<S> {
    /// Runs a replay whenever it may run here, until it has ended or the worker stops.
    async fn see_to(self: Arc<Self>, mut entry: watch::Receiver<Replay>) -> Handled {
        let (mut handled, mut issue) = (Handled::new(), Issue::default());
        while !self.stop.is_cancelled() {
            let replay = entry.borrow_and_update().clone();
            if replay.state.is_final() {
                self.leave_nothing(&replay).await;
                break;
            }
            if replay.state != ReplayState::Running {
                let changed = self.stop.run_until_cancelled(entry.changed());
                match changed.await {
                    Some(Ok(())) => continue,
                    _ => break,
                }
            }
            let worked = match self.subscriber.ordered {
                true => {
                    self.work(replay, &mut entry, &CancellationToken::new())
                        .await
                }
                false => self.work_alone(replay, &mut entry).await,
            };
            match worked {
                Ok(Worked::Over) => break,
                Ok(Worked::For(now)) => {
                    issue = Issue::default();
                    handled.extend(now);
                }
                Err(error) => self.leave_alone(&error, &mut issue, &mut entry).await,
            }
        }
        handled
    }

    fn lease(&self, id: ReplayId) -> Lease {
        Lease::of_replay(&self.bus, &self.name, id, self.executor.observers())
    }

    /// Tells the observers that a replay has changed.
    fn record(&self, replay: ReplayId, change: ReplayChange<'_>) {
        let observation = Observation::Replay {
            subscriber: &self.name,
            replay,
            change,
        };
        self.executor.observers().tell(&observation);
    }

    /// Runs a replay as long as this instance holds its lease.
    async fn work_alone(
        &self,
        replay: Replay,
        entry: &mut watch::Receiver<Replay>,
    ) -> Result<Worked, BusError> {
        let lease = self.lease(replay.id);
        let tenure = tokio::select! {
            tenure = lease.acquire(&self.stop, |error| self.reporter.knows_replays(error)) => tenure,
            _ = entry.changed() => None,
        };
        let Some(mut tenure) = tenure else {
            return Ok(Worked::For(Handled::new()));
        };
        let lost = CancellationToken::new();
        let mut working = std::pin::pin!(self.work(replay, entry, &lost));
        let worked = tokio::select! {
            worked = &mut working => worked,
            () = lease.hold(&mut tenure) => {
                lost.cancel();
                return working.await;
            }
        };
        lease.release(&tenure, Handled::new()).await;
        if let Ok(Worked::Over) = worked {
            lease.forget().await;
        }
        worked
    }

    /// Runs a replay, and writes the reason when it cannot.
    async fn work(
        &self,
        replay: Replay,
        entry: &mut watch::Receiver<Replay>,
        lost: &CancellationToken,
    ) -> Result<Worked, BusError> {
        let worked = self.try_to_work(replay.clone(), entry, lost).await;
        if let Err(error) = &worked {
            self.tell(&replay, error).await;
        }
        worked
    }

    async fn try_to_work(
        &self,
        replay: Replay,
        entry: &mut watch::Receiver<Replay>,
        lost: &CancellationToken,
    ) -> Result<Worked, BusError> {
        // The previous holder of the lease may have ended it.
        let Some(now) = self.bus.replay(replay.id).await? else {
            // The entry was removed: looking for it in a tight loop does not bring it back.
            self.stop
                .run_until_cancelled(tokio::time::sleep(PAUSE))
                .await;
            return Ok(Worked::For(Handled::new()));
        };
        if now.value.state != ReplayState::Running {
            // The written entry will be notified.
            self.stop
                .run_until_cancelled(tokio::time::sleep(SOON))
                .await;
            return Ok(Worked::For(Handled::new()));
        }
        Work::new(self, replay).await?.run(entry, lost).await
    }

    /// Writes the end of a replay, unless it has ended already.
    async fn write_end(
        &self,
        id: ReplayId,
        (state, reason): (ReplayState, Option<String>),
    ) -> Result<(), BusError> {
        while let Some(entry) = self.bus.replay(id).await? {
            let mut replay = entry.value;
            if replay.state.is_final() {
                break;
            }
            replay.state = state;
            replay.reason.clone_from(&reason);
            replay.state_at = Utc::now();
            let writing = self.bus.write_replay(&replay, entry.revision);
            if writing.await?.is_some() {
                self.record(id, ReplayChange::Ended { state });
                break;
            }
        }
        Ok(())
    }

    /// Deletes everything that an ended replay has at the server, and its released lease, until that succeeds.
    async fn leave_nothing(&self, replay: &Replay) {
        let mut pause = PAUSE;
        while let Err(error) = self.clean_up(replay).await {
            tracing::warn!(replay = %replay.id, %error, ?pause, "replay cleanup failed");
            let pausing = self.stop.run_until_cancelled(tokio::time::sleep(pause));
            if pausing.await.is_none() {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        if !self.subscriber.ordered {
            let lease = self.lease(replay.id);
            lease.forget().await;
        }
    }

    /// Deletes the consumers of an ended replay.
    async fn clean_up(&self, replay: &Replay) -> Result<(), BusError> {
        self.bus.delete_consumers_of(replay).await
    }
}
