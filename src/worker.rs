//! The run loop of a service: subscribers and background work, from start to shutdown. The order of the shutdown is
//! written in [`Worker::run`] and nowhere else.

mod again;
mod answers;
mod batcher;
mod checkup;
mod crash_guard;
mod error;
mod floors;
mod handle;
mod in_flight_table;
mod inspection;
mod intake;
mod item;
mod lease;
mod live;
mod needs;
mod parks;
mod preflight;
mod replays;
mod runner;
mod source;
mod status_reporter;
mod task_pool;
mod watch;

pub(crate) use lease::forget_handled;

use std::{collections::HashSet, error::Error, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use crate::{
    background::Background,
    policy::adjustment::{AdjustError, Adjustment, RelayAdjustment, SubscriberAdjustment},
    process::Process,
};
pub use handle::WorkerHandle;

use crate::{
    executor::{Executor, in_flight::InFlight},
    handler::subscriber::EventSubscriber,
    nats::{Bus, ConsumerSpec, StartFrom, subjects},
    policy::{issue_kind::IssueKind, preflight::Allowance},
    process::figures::Phase,
};
pub use error::WorkerError;
use inspection::Inspection;
use preflight::{Checks, EndTimes};
use runner::Runner;
use status_reporter::StatusReporter;
use watch::Watch;

/// Runs subscribers and background work over one connection until shutdown.
pub struct Worker<S> {
    bus: Bus,
    state: Arc<S>,
    subscribers: Vec<EventSubscriber<S>>,
    background: Vec<Box<dyn Background>>,
    drain: Duration,
    grace: Option<Duration>,
    exit_when_stuck: Option<i32>,
    process: Process,
    allowance: Allowance,
}

/// How long handing back may take.
const HALT: Duration = Duration::from_secs(3);
/// How long background work may take to stop, after the subscribers have drained.
const BACKGROUND: Duration = Duration::from_secs(15);

type Ended = (String, Result<(), Box<dyn Error + Send + Sync>>);

impl<S: Send + Sync + 'static> Worker<S> {
    /// A worker whose handlers share this state.
    #[must_use]
    pub fn new(bus: Bus, state: S) -> Self {
        Self {
            bus,
            state: Arc::new(state),
            subscribers: Vec::new(),
            background: Vec::new(),
            drain: Duration::from_secs(25),
            grace: None,
            exit_when_stuck: None,
            process: Process::default(),
            allowance: Allowance::default(),
        }
    }

    /// Adds a subscriber.
    #[must_use]
    pub fn subscribe(mut self, subscriber: EventSubscriber<S>) -> Self {
        self.subscribers.push(subscriber);
        self
    }

    /// Adds background work, such as a [`Relay`](crate::Relay).
    #[must_use]
    pub fn with(mut self, background: impl Background) -> Self {
        self.background.push(Box::new(background));
        self
    }

    /// Sets how long handlers may take to finish after the signal; default 25 s, which is below the 30 s that
    /// Kubernetes grants. What still runs then is handed back to the server.
    #[must_use]
    pub fn shutdown_timeout(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    /// Tells how long after the signal the process is killed: `terminationGracePeriodSeconds` of Kubernetes,
    /// `TimeoutStopSec` of systemd. Only a check at the start uses it: the shutdown timeout has to be shorter.
    #[must_use]
    pub fn grace_period(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// Ends the process with this code when the worker cannot drain because handlers block their threads: at the latest
    /// 4 s after the shutdown timeout. By default it does not.
    ///
    /// A handler that does not await, such as one that calls `std::thread::sleep` or waits for a lock, cannot be
    /// aborted. It blocks its thread, and thereby the end of the runtime. When handlers block all threads, nothing else
    /// runs any more, and the worker cannot drain. A separate thread of the worker reports this within ten seconds,
    /// with the names of the handlers, and enforces the shutdown timeout. Without this setting it only reports which
    /// handlers have not returned, and the process has to be killed from outside.
    ///
    /// When all threads are blocked, a shutdown is noticed only if it is requested by a signal, and only if the process
    /// listens with [`shutdown_signal`].
    #[must_use]
    pub fn exit_when_stuck(mut self, code: i32) -> Self {
        self.exit_when_stuck = Some(code);
        self
    }

    /// Silences [checks](crate::judge::CHECKS) of the start by the kinds that they find. A relay has
    /// [its own](crate::Relay::allow).
    #[must_use]
    pub fn allow(mut self, kinds: impl IntoIterator<Item = IssueKind>) -> Self {
        self.allowance.kinds.extend(kinds);
        self
    }

    /// Starts also where a check of the start refuses it; the finding is a warning then.
    #[must_use]
    pub fn force(mut self) -> Self {
        self.allowance.is_forced = true;
        self
    }

    /// Returns a handle that changes settings while the worker runs.
    #[must_use]
    pub fn handle(&self) -> WorkerHandle {
        WorkerHandle::new(&self.process)
    }

    /// Runs until `shutdown` ends, drains and returns. Beside the start it checks how the streams and subscribers are
    /// [configured](crate::judge::CHECKS).
    ///
    /// # Errors
    /// [`WorkerError`] when it cannot start with its configuration, or background work can never run.
    ///
    /// # Cancel safety
    /// When the future is dropped, what is in flight is aborted; the server redelivers it.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), WorkerError> {
        let pulling = CancellationToken::new();
        let handling = CancellationToken::new();
        let relaying = CancellationToken::new();
        let _cut_off = (
            pulling.clone().drop_guard(),
            handling.clone().drop_guard(),
            relaying.clone().drop_guard(),
        );
        for work in &mut self.background {
            work.join(&self.process);
        }
        let mut kept = HashSet::new();
        let needed = self
            .subscribers
            .iter()
            .flat_map(EventSubscriber::housekeeping);
        let needed = needed.filter(|needed| kept.insert(needed.of));
        let work: Vec<_> = needed.map(|needed| needed.work).collect();
        let in_flight = Arc::default();
        self.process.has_in_flight(&in_flight);
        let inspection = Arc::new(Inspection::default());
        let runners = self.runners(&in_flight, &inspection).await?;
        let ends = EndTimes {
            shutdown_timeout: self.drain,
            grace: self.grace,
        };
        let allowance = (ends, std::mem::take(&mut self.allowance));
        let checks = Checks::of(&self.bus, &runners, &inspection, &self.process, allowance);
        let watch = Watch::begin(in_flight, self.drain, self.exit_when_stuck);
        // Dropped at the end, which ends the work.
        let _housekeeping: JoinSet<()> = work.into_iter().collect();
        // Dropped at the end too: until then the workers answer status requests, also while they drain.
        let process = self.process.clone();
        let lives = |what: String, work: BoxFuture<'static, ()>| {
            let living = process.living(what);
            async move {
                let _living = living;
                work.await;
            }
        };
        let mut answering: JoinSet<()> = runners
            .iter()
            .map(|runner| {
                let what = format!("status of {}", runner.subscriber.name());
                let answer = Arc::clone(&runner.reporter).answer(self.bus.clone());
                lives(what, answer.boxed())
            })
            .collect();
        let mut inspecting = JoinSet::new();
        if !runners.is_empty() {
            let inspect = inspection.run(self.bus.clone());
            inspecting.spawn(lives("inspection of streams".to_owned(), inspect.boxed()));
        }
        let names = runners.iter().map(|one| one.subscriber.name().to_owned());
        let names: Vec<String> = names.collect();
        if !names.is_empty() {
            answering.spawn(status_reporter::answer_everybody(self.bus.clone(), names));
        }
        let mut subscribers: JoinSet<()> = runners
            .into_iter()
            .map(|runner| runner.run(pulling.clone(), handling.clone()))
            .collect();
        let mut connections = vec![self.bus.clone()];
        let mut background: JoinSet<Ended> = JoinSet::new();
        for work in std::mem::take(&mut self.background) {
            let name = work.name();
            let bus = match work.asks_nats() {
                true => self.bus.another().await?,
                false => self.bus.clone(),
            };
            connections.push(bus.clone());
            let running = work.run(bus, relaying.clone());
            background.spawn(async move { (name, running.await) });
        }
        // Declared last, so that it is dropped first: what ends with the worker has not ended by itself.
        let phases = Phases(self.process.clone());
        phases.0.has_connections(connections);
        phases.0.enters(Phase::Running);
        tracing::info!("worker running");

        let ended = tokio::select! {
            () = shutdown => Ok(()),
            refusal = checks.run() => {
                self.process.refuses(&refusal);
                Err(WorkerError::Refused(refusal))
            }
            Some(ended) = background.join_next() => Err(end_of(ended)),
            Some(Err(error)) = subscribers.join_next() => Err(WorkerError::Panicked(error.to_string())),
        };

        tracing::info!(within = ?self.drain, "worker draining");
        watch.drains();
        phases.0.enters(Phase::Draining);
        pulling.cancel();
        if tokio::time::timeout(self.drain, joined(&mut subscribers))
            .await
            .is_err()
        {
            tracing::warn!("drain timed out: events in flight are handed back");
            handling.cancel();
            if tokio::time::timeout(HALT, joined(&mut subscribers))
                .await
                .is_err()
            {
                tracing::error!(
                    "drain incomplete: handlers or NATS do not stop and are cancelled; events are redelivered"
                );
                subscribers.abort_all();
            }
        }
        watch.stops();
        relaying.cancel();
        let stopped = tokio::time::timeout(BACKGROUND, all_outcomes(&mut background)).await;
        if stopped.is_err() {
            tracing::error!("background tasks not stopped: they are cancelled");
        }
        watch.end().await;
        tracing::info!("worker drained");
        ended.and(stopped.unwrap_or(Ok(())))
    }

    /// Checks the subscribers and sets up their consumers.
    async fn runners(
        &mut self,
        in_flight: &Arc<InFlight>,
        inspection: &Arc<Inspection>,
    ) -> Result<Vec<Runner<S>>, WorkerError> {
        let mut runners = Vec::new();
        let mut taken = HashSet::new();
        for subscriber in std::mem::take(&mut self.subscribers) {
            subscriber.check()?;
            if !taken.insert(subscriber.name().to_owned()) {
                return Err(WorkerError::NameTaken(subscriber.name().to_owned()));
            }
            let (mut consumers, dead_letters) = consumers_of(&self.bus, &subscriber).await?;
            let who = (subscriber.name(), subscriber.ordered);
            inspection.add(&consumers, &dead_letters, who);
            apply(&self.bus, &subscriber, &mut consumers).await?;
            let subscriber = Arc::new(subscriber);
            let executor = Executor::new(
                Arc::clone(&subscriber),
                Arc::clone(&self.state),
                &self.process.observers(),
            );
            let executor = executor.among(in_flight);
            let reporter =
                StatusReporter::new(&subscriber, &consumers, &executor, in_flight, inspection);
            let reporter = Arc::new(reporter);
            self.process.has_subscriber(&reporter);
            self.process.register(Arc::new(handle::Adjusted {
                subscriber: subscriber.name().to_owned(),
                throttle: Arc::clone(executor.throttle()),
                reporter: Arc::clone(&reporter),
            }));
            runners.push(Runner {
                bus: self.bus.clone(),
                executor: Arc::new(executor),
                reporter,
                subscriber,
                consumers,
                floors: Arc::default(),
            });
        }
        Ok(runners)
    }
}

/// The phases of a worker, which drains when it is dropped.
struct Phases(Process);

impl Drop for Phases {
    fn drop(&mut self) {
        self.0.enters(Phase::Draining);
        self.0.has_connections(Vec::new());
    }
}

/// One consumer for each stream that has events of a subscriber, and one for its retries; and the stream of its dead
/// letters.
async fn consumers_of<S: Send + Sync + 'static>(
    bus: &Bus,
    subscriber: &EventSubscriber<S>,
) -> Result<(Vec<ConsumerSpec>, String), WorkerError> {
    let name = subscriber.name();
    let setup = |source| WorkerError::Setup {
        subscriber: name.to_owned(),
        source,
    };
    let none = |subject: &str| WorkerError::NoStream {
        subscriber: name.to_owned(),
        subject: subject.to_owned(),
    };
    let dead_letter = subjects::dead_letter(name, "any");
    let dead_letters = bus.stream_of(&dead_letter).await.map_err(setup)?;
    let dead_letters = dead_letters.ok_or_else(|| none(&dead_letter))?;
    let retries = subjects::retry(name, ">");
    let streams = bus.streams_of(subscriber.event_names()).await;
    let mut consumers = Vec::new();
    for (stream, names) in streams.map_err(setup)? {
        let stream = stream.ok_or_else(|| none(names.first().copied().unwrap_or_default()))?;
        let names = names.into_iter().map(str::to_owned).collect();
        consumers.push(ConsumerSpec::new(stream, name, names));
    }
    let retry_stream = bus.stream_of(&retries).await.map_err(setup)?;
    let retry_stream = retry_stream.ok_or_else(|| none(&retries))?;
    consumers.push(ConsumerSpec::new(retry_stream, name, vec![retries]));
    Ok((consumers, dead_letters))
}

/// Sets up consumers. A new subscriber begins at its configured start; all of its retries are delivered.
async fn apply<S: Send + Sync + 'static>(
    bus: &Bus,
    subscriber: &EventSubscriber<S>,
    consumers: &mut [ConsumerSpec],
) -> Result<(), WorkerError> {
    let name = subscriber.name();
    let (of_retries, of_events) = consumers.split_last_mut().unzip();
    let of_events = of_events.unwrap_or_default();
    if matches!(subscriber.start, StartFrom::Sequence(_)) && of_events.len() > 1 {
        return Err(WorkerError::StartOfStreams {
            subscriber: name.to_owned(),
            streams: of_events.iter().map(|one| one.stream.clone()).collect(),
        });
    }
    let setup = |source| WorkerError::Setup {
        subscriber: name.to_owned(),
        source,
    };
    for consumer in &mut *of_events {
        let applied = bus.apply_consumer(consumer, subscriber.start).await;
        applied.map_err(setup)?;
    }
    let Some(of_retries) = of_retries else {
        return Ok(());
    };
    let applied = bus.apply_consumer(of_retries, StartFrom::Beginning).await;
    applied.map_err(setup)?;
    // Delivery does not depend on the marker.
    if let Err(error) = bus.note_streams(of_retries, of_events).await {
        tracing::warn!(
            subscriber = name, %error,
            "consumers not marked: a list of subscribers may miss a deleted consumer"
        );
    }
    Ok(())
}

/// Why the worker ends when background work has ended that was not told to.
fn end_of(ended: Result<Ended, tokio::task::JoinError>) -> WorkerError {
    match ended {
        Ok((name, Ok(()))) => WorkerError::Ended(name),
        Ok((name, Err(source))) => WorkerError::Background { name, source },
        Err(error) => WorkerError::Panicked(error.to_string()),
    }
}

/// The result of background work that was told to end.
fn outcome_of(ended: Result<Ended, tokio::task::JoinError>) -> Result<(), WorkerError> {
    match ended {
        Ok((_, Ok(()))) => Ok(()),
        ended => Err(end_of(ended)),
    }
}

/// The first error of the work that has ended.
async fn all_outcomes(background: &mut JoinSet<Ended>) -> Result<(), WorkerError> {
    let mut result = Ok(());
    while let Some(ended) = background.join_next().await {
        result = result.and(outcome_of(ended));
    }
    result
}

async fn joined(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "subscriber task panicked");
        }
    }
}

/// Ends at the first SIGTERM, Ctrl-C or SIGHUP, which a terminal sends when it is closed. A service that reads its
/// configuration again on SIGHUP listens for the signals by itself.
///
/// # Panics
/// When no signal handler can be installed, which happens only outside a tokio runtime.
pub async fn shutdown_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    #[allow(clippy::expect_used)] // documented; without signals no service can be stopped
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be listened for");
    #[allow(clippy::expect_used)] // as above
    let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be listened for");
    #[allow(clippy::expect_used)] // as above
    let mut hangup = signal(SignalKind::hangup()).expect("SIGHUP can be listened for");
    watch::note_signals();
    tokio::select! {
        _ = terminate.recv() => tracing::info!(signal = "SIGTERM", "signal received"),
        _ = interrupt.recv() => tracing::info!(signal = "SIGINT", "signal received"),
        _ = hangup.recv() => tracing::info!(signal = "SIGHUP", "signal received"),
    }
}
