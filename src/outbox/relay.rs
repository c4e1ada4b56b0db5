//! The relay: moves committed events into their stream, in order, once. This file owns its life: lease, resume,
//! pipeline, end. Never reads a row or sends a message itself.
//!
//! ```text
//! outbox ─ fetch ─> pages ─ route ─> a lane a stream ─ atomic batches ─> JetStream
//!                                         │ confirmed, parked
//!            checkpoint, lease <─ keeper <┘
//! ```
//!
//! A start, a fault and a failover all continue in the same way: take the lease, read what the streams hold after the
//! last checkpoint, restore the parked rows that can be published, continue after the cursor, and leave out the events
//! that were found.

mod claim;
mod delay_schedule;
mod error;
#[cfg(feature = "failpoints")]
pub mod failpoint;
#[cfg(not(feature = "failpoints"))]
mod failpoint;
mod fault;
mod fetch;
mod handle;
mod issue;
mod janitor;
mod keeper;
mod lane;
mod lane_context;
mod lost;
mod parked_keys;
mod preflight;
mod progress;
mod relay_state;
mod report_issue;
mod reporter;
mod restore;
mod resume;
mod rights;
mod route;
mod stand_by;

use std::{pin::pin, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Outbox, Store,
    store::{Claim, Tenure, Waiting, home::Home},
};
use crate::{
    background::Background,
    nats::{Bus, names},
    observer::Observation,
    policy::adjustment::RelayTuning,
    policy::preflight::Allowance,
    process::Process,
    task::fence::Fence,
};
use claim::Claimed;
pub use error::RelayError;
use fault::{Fault, fault_of};
use fetch::Fetcher;
use handle::RelayControl;
pub use handle::{RelayHandle, RelaySettings};
use keeper::{Keeper, KeeperContext};
use lane_context::LaneContext;
use parked_keys::ParkedKeys;
use progress::Report;
use relay_state::{RelayState, owner};
use reporter::Reporter;
pub use reporter::{DatabaseKind, RelayInstance};
use restore::{nothing_parked, restore};
use resume::{Stored, stored_behind};
use route::Router;
use stand_by::StandBy;

/// Pages that are fetched ahead of sending.
const PAGES_AHEAD: usize = 2;
/// How many reports the keeper may lag behind.
const REPORTS: usize = 256;
/// The shortest and the longest pause after a fault.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Moves the outbox into the stream. Give it to a [`Worker`](crate::Worker), or run it alone.
///
/// Any number may run: one is active, and the others stand by and take over within the lease.
pub struct Relay<DB: Store> {
    outbox: Outbox<DB>,
    owner: String,
    control: Arc<RelayControl>,
    process: Process,
    allowance: Allowance,
}

/// How a tenure, the time with one lease, ended.
enum TenureEnd {
    /// Another relay has the lease.
    StandBy,
    /// Stopped on request; the last checkpoint is written and the lease is released.
    Stopped,
    /// Parked rows are to be restored: the next tenure begins with them, at once.
    Restart,
}

impl<DB: Store> Relay<DB> {
    /// Creates a relay of this outbox.
    #[must_use]
    pub fn new(outbox: Outbox<DB>) -> Self {
        let tuning = RelayTuning {
            lease: Duration::from_secs(5),
            batch: 1000,
            retention: Duration::from_secs(18 * 3600),
            stall_timeout: Duration::from_secs(5),
        };
        let control = RelayControl::new(outbox.shared.names.schema(), tuning);
        Self {
            outbox,
            owner: owner(),
            control: Arc::new(control),
            process: Process::default(),
            allowance: Allowance::default(),
        }
    }

    /// Returns the owner name for the lease: host, process, and a unique part.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Sets how long a standby waits for a relay that died: 100 ms to 1 h; default 5 s.
    #[must_use]
    pub fn lease(self, lease: Duration) -> Self {
        self.control.set(|tuning| tuning.lease = lease);
        self
    }

    /// Sets the most events of one atomic batch: 1 to 1000, which is the server's limit and the default.
    #[must_use]
    pub fn batch(self, events: usize) -> Self {
        self.control.set(|tuning| tuning.batch = events);
        self
    }

    /// Sets how long confirmed events stay in the outbox at least, at most 100 years; default 18 h. Postgres frees them one slot at a
    /// time, so they stay up to a sixth longer. It may differ from one run to the next: the slots are adapted.
    #[must_use]
    pub fn retention(self, retention: Duration) -> Self {
        self.control.set(|tuning| tuning.retention = retention);
        self
    }

    /// Sets how long a stream that accepts no events, because it is full or sealed, may delay the events of other
    /// streams; default 5 s. Then its events are parked, and restored by themselves when it accepts events again. With
    /// a single stream they are not parked.
    #[must_use]
    pub fn stall_timeout(self, stall_timeout: Duration) -> Self {
        self.control
            .set(|tuning| tuning.stall_timeout = stall_timeout);
        self
    }

    /// Relays until `stop` is cancelled, without the checks of the start.
    async fn relay(self, bus: Bus, stop: CancellationToken) -> Result<(), RelayError> {
        self.outbox.learn_limit(&bus);
        let schema = self.outbox.shared.names.schema();
        let bus = bus.reading_as(&names::relay_readers(schema));
        let stand_by = StandBy::listen(&bus, schema).await;
        let observers = self.process.observers().of_outbox(schema);
        let state = RelayState::new(&bus, &stop, &observers, |issues| {
            Reporter::new(DB::KIND, &self.owner, &self.control, issues)
        });
        self.process.has_relay(&state.reporter);
        let _telling = state.tell(&self.process, schema);
        let mut pause = FIRST_PAUSE;
        loop {
            let began = Instant::now();
            let wait = match self.tenure(&state).await {
                Ok(TenureEnd::Stopped) => {
                    stand_by::tell_release(&bus, schema).await;
                    return Ok(());
                }
                Ok(TenureEnd::Restart) => continue,
                Ok(TenureEnd::StandBy) => {
                    pause = FIRST_PAUSE;
                    state.issues.forget();
                    state.reporter.stands_by();
                    let (now, mut changes) = self.control.subscribe();
                    tokio::select! {
                        () = stop.cancelled() => return Ok(()),
                        _ = changes.changed() => continue,
                        () = stand_by.wait(now.lease / 4) => continue,
                    }
                }
                Err(fault) => {
                    let fault = self.explained(fault).await;
                    let fault = RelayError::or_fault::<DB>(fault, state.is_admitted())?;
                    if began.elapsed() > LONGEST_PAUSE {
                        pause = FIRST_PAUSE;
                    }
                    state.reporter.begins();
                    let kind = fault.kind(&state.bus);
                    state.observers.tell(&Observation::Interrupted { kind });
                    // A lasting fault is reported as an issue, so it is logged at debug level only.
                    match self.report_issue(&state, &fault).await {
                        true => {
                            tracing::warn!(outbox = DB::KIND, %fault, again_in = ?pause, "relay interrupted")
                        }
                        false => {
                            tracing::debug!(outbox = DB::KIND, %fault, again_in = ?pause, "relay interrupted")
                        }
                    }
                    let wait = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    wait
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Takes the lease, resumes, and relays until a fault or the end. The fence ends it even when a call hangs: a
    /// silent database must not keep the relay from trying again.
    async fn tenure(&self, state: &RelayState) -> Result<TenureEnd, Fault> {
        let (tuning, changes) = self.control.subscribe();
        let (owner, lease) = (&self.owner, tuning.lease);
        let looking = tokio::time::timeout(lease, self.look(lease)).await;
        let (connection, home) = looking.map_err(|_| Fault::Silent)??;
        // A lease that is already held may go without renewal no longer than this.
        let new_home = state.is_home(&home, lease / 3).await?;
        let asked = Instant::now();
        let claiming = self.claim(connection, new_home.as_ref(), lease);
        let claiming = tokio::time::timeout(lease, claiming).await;
        let claimed = claiming.map_err(|_| Fault::Silent)??;
        state.reporter.claimed();
        let Some(claimed) = claimed else {
            return Ok(TenureEnd::StandBy);
        };
        let Claimed {
            connection,
            claim,
            keys,
            waiting,
        } = claimed;
        tracing::info!(
            outbox = DB::KIND,
            owner,
            epoch = claim.epoch,
            "relay lease acquired"
        );
        state.issues.new_tenure(&claim.issues)?;
        state.reporter.works(claim.epoch);
        let fence = Fence::until(asked + lease);
        let tenure = Tenure {
            owner: owner.clone(),
            epoch: claim.epoch,
            lease,
        };
        let end_of_tenure = state.stop.child_token();
        let _working = self.outbox.shared.wake.work_here();

        // The keeper renews the lease from the start, also while the streams are read.
        let (reports, reported) = mpsc::channel(REPORTS);
        let keeper_context = KeeperContext {
            outbox: self.outbox.clone(),
            bus: state.bus.clone(),
            connection,
            tenure,
            tuning,
            changes,
            fence: fence.clone(),
            issues: state.issues.clone(),
            reporter: Arc::clone(&state.reporter),
            end_of_tenure: end_of_tenure.clone(),
            stop: state.stop.clone(),
            restore_schedule: Arc::clone(&state.restore_schedule),
        };
        let keeper = Keeper::new(keeper_context, claim.streams.clone());
        let mut tasks: JoinSet<Result<(), Fault>> = JoinSet::new();
        tasks.spawn(keeper.run(reported));
        let channels = Channels {
            fence: fence.clone(),
            end_of_tenure,
            reports,
            batch: tuning.batch,
            lease,
        };
        let mut resuming = pin!(self.resume(state, &home, claim, (keys, waiting), channels));
        tokio::select! {
            result = &mut resuming => match result {
                Err(ended @ Fault::Ended(_)) => return Err(why(&mut tasks, ended).await),
                result => result?,
            },
            Some(ended) = tasks.join_next() => match ended {
                // The keeper's channel is closed: the tasks that report to it have ended, and their result follows in a
                // moment.
                Ok(Ok(())) => tokio::select! {
                    result = &mut resuming => result?,
                    over = fence.passed() => return Err(over.into()),
                },
                ended => return Err(fault_of(ended)),
            },
            over = fence.passed() => return Err(over.into()),
        }
        // The channel of reports is closed: the keeper writes the last checkpoint.
        tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(Ok(Ok(()))) | None if state.stop.is_cancelled() => Ok(TenureEnd::Stopped),
                Some(Ok(Ok(()))) | None => Ok(TenureEnd::Restart),
                Some(ended) => Err(fault_of(ended)),
            },
            over = fence.passed() => Err(over.into()),
        }
    }

    /// Resumes after the last checkpoint, and relays until the connection is lost.
    async fn resume(
        &self,
        state: &RelayState,
        home: &Home,
        claim: Claim<DB::Cursor>,
        parked_keys: (Vec<(String, i64)>, Waiting),
        channels: Channels<DB::Cursor>,
    ) -> Result<(), Fault> {
        state.admit(home).await?;
        let (stored, mut interruptions) = stored_behind(&state.bus, &claim.streams).await?;
        let schema = self.outbox.shared.names.schema();
        let streams: Vec<String> = claim.streams.keys().cloned().collect();
        tokio::select! {
            never = rights::tell_missing(&state.bus, schema, &streams, &state.rights) => match never {},
            result = self.pipeline(state, claim, stored.into(), parked_keys, channels) => result,
            // A new connection may lead to another stream of that name, or to an older copy of it.
            Ok(()) = interruptions.changed() => Err(Fault::Disconnected),
        }
    }

    /// Restores parked rows, and relays until the tenure is to end, or until a fault.
    async fn pipeline(
        &self,
        state: &RelayState,
        claim: Claim<DB::Cursor>,
        stored: Arc<Stored>,
        (mut keys, mut waiting): (Vec<(String, i64)>, Waiting),
        channels: Channels<DB::Cursor>,
    ) -> Result<(), Fault> {
        let (_, changes) = self.control.subscribe();
        let context = |parked_keys: ParkedKeys, tuning| LaneContext {
            owner: self.owner.clone(),
            bus: state.bus.clone(),
            source: self.outbox.shared.source.clone(),
            batch: channels.batch,
            tuning,
            fence: channels.fence.clone(),
            stored: Arc::clone(&stored),
            parked_keys: Arc::new(parked_keys),
            issues: state.issues.clone(),
            observers: state.observers.clone(),
            reports: channels.reports.clone(),
            stop: channels.end_of_tenure.clone(),
        };
        let returning = context(nothing_parked(), None);
        returning
            .report(Report::Began {
                ends: stored.ends.clone(),
                held: stored.found.keys().cloned().collect(),
                losses: stored.losses.clone(),
                resets: stored.resets.clone(),
            })
            .await?;
        if waiting.is_something() {
            let names = &self.outbox.shared.names;
            let mut connection = self.connect(channels.lease).await?;
            let parked = (&waiting, &*keys, &claim.cursor);
            restore(&self.outbox, &mut connection, parked, returning).await?;
            waiting = DB::waiting(&mut connection, names).await?;
            keys = DB::parked_keys(&mut connection, names).await?;
        } else {
            drop(returning);
        }
        state.recall(&waiting);
        let closed = waiting.reasons.into_iter();
        let closed = closed.map(|reason| (reason.blocked_on, reason.error));
        let feeds = claim.streams.keys().cloned();
        let relaying = context(ParkedKeys::new(keys, closed, feeds), Some(changes));
        relaying.report(Report::Relaying).await?;

        let (pages, paged) = mpsc::channel(PAGES_AHEAD);
        let (bus, batch) = (&state.bus, channels.batch);
        let connection = self.connect(channels.lease).await?;
        let reporter = &state.reporter;
        let fetcher = Fetcher::open(&self.outbox, bus, reporter, connection, claim.cursor, batch);
        let fetcher = fetcher.await?;
        let mut tasks: JoinSet<Result<(), Fault>> = JoinSet::new();
        tasks.spawn(fetcher.run(pages, channels.end_of_tenure.clone()));
        tasks.spawn(Router::new(relaying).run(paged));
        drop(channels);
        // Without a fault the fetcher ends first, and its end propagates down the channels.
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                ended => return Err(fault_of(ended)),
            }
        }
        Ok(())
    }
}

/// Finds out why a task has ended. When the keeper has ended, its channel closes before its result is read, and only
/// the keeper knows the reason.
async fn why(tasks: &mut JoinSet<Result<(), Fault>>, ended: Fault) -> Fault {
    const SOON: Duration = Duration::from_secs(1);
    match tokio::time::timeout(SOON, tasks.join_next()).await {
        Ok(Some(Ok(Ok(())))) | Ok(None) | Err(_) => ended,
        Ok(Some(keeper)) => fault_of(keeper),
    }
}

impl<DB: Store> Background for Relay<DB> {
    fn name(&self) -> String {
        "relay".to_owned()
    }

    fn join(&mut self, process: &Process) {
        self.process = process.clone();
        process.register(Arc::clone(&self.control) as _);
        process.expects_relay();
    }

    fn run(
        self: Box<Self>,
        bus: Bus,
        stop: CancellationToken,
    ) -> BoxFuture<'static, Result<(), Box<dyn std::error::Error + Send + Sync>>> {
        async move { Ok(Relay::run(*self, bus, stop).await?) }.boxed()
    }
}

/// What the parts of a tenure share.
struct Channels<C> {
    fence: Fence,
    /// Ends the tenure.
    end_of_tenure: CancellationToken,
    reports: mpsc::Sender<Report<C>>,
    /// The most events of a batch, in this tenure.
    batch: usize,
    /// The lease of this tenure.
    lease: Duration,
}
