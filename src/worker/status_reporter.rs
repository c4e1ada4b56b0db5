//! Reports the status of one subscriber on `tidings.status.<subscriber>`, and the names of the worker's subscribers on
//! `tidings.status`. Stores nothing, and no task that handles events waits for it.

mod source;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use futures::StreamExt;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use source::{Gauges, Looks};

use super::{in_flight_table::InFlightTable, inspection::Inspection};
use crate::{
    executor::{Executor, in_flight::InFlight, tally::Tally, throttle::Throttle},
    handler::subscriber::EventSubscriber,
    instance::{
        Activity, FailingKey, HotKey, Instance, OldestAttempt, OpenCircuit, WantedConsumer,
    },
    log::{Lasting, short},
    nats::{BadEntry, Bus, ConsumerSpec, subjects},
    policy::{breaker::CircuitState, lanes::Lanes, start::shifted},
};

/// How long the runner may take to report its figures.
const PATIENCE: Duration = Duration::from_millis(250);
/// How many requests for the figures may wait.
const QUESTIONS: usize = 4;
/// The pause before the subject is subscribed to again.
const PAUSE: Duration = Duration::from_secs(1);
/// How many hot keys are reported.
const HOTTEST: usize = 10;

/// The figures that only the runner has.
#[derive(Debug, Default)]
pub(super) struct Figures {
    running: usize,
    resting: usize,
    hottest: Vec<HotKey>,
    failing: Vec<FailingKey>,
}

/// Where the runner receives requests for its figures.
pub(super) type FigureRequests = mpsc::Receiver<oneshot::Sender<Figures>>;

/// Written by the runner, read by the task that answers requests.
pub(super) struct StatusReporter {
    /// The fields that never change.
    facts: Instance,
    throttle: Arc<Throttle>,
    tally: Arc<Tally>,
    /// The calls of the handlers of the worker.
    calls: Arc<InFlight>,
    /// The last inspection of the subscriber's streams and of the bucket.
    inspection: Arc<Inspection>,
    /// Throttles the log: the subscriber cannot begin.
    unbegun: Lasting,
    /// When it counts as stuck with all slots taken, if its code says so.
    stuck_after: Option<Duration>,
    gauges: Gauges,
    inner: Mutex<Inner>,
}

struct Inner {
    activity: Activity,
    holds_lease: bool,
    in_flight: Vec<Arc<InFlightTable>>,
    issue: Option<String>,
    /// Why this instance can neither take the lease nor see that another instance holds it.
    leaseless: Option<String>,
    /// Why the replays cannot be listed.
    replay_issue: Option<String>,
    runner: Option<mpsc::Sender<oneshot::Sender<Figures>>>,
    /// For how long something holds, as the process looks at it.
    looks: Looks,
}

impl StatusReporter {
    pub(super) fn new<S: Send + Sync + 'static>(
        subscriber: &EventSubscriber<S>,
        consumers: &[ConsumerSpec],
        executor: &Executor<S>,
        calls: &Arc<InFlight>,
        inspection: &Arc<Inspection>,
    ) -> Self {
        let wanted =
            |spec: &ConsumerSpec| WantedConsumer::new(spec.stream.clone(), spec.settings());
        Self {
            facts: facts(subscriber, consumers.iter().map(wanted).collect()),
            throttle: Arc::clone(executor.throttle()),
            tally: Arc::clone(executor.tally()),
            calls: Arc::clone(calls),
            inspection: Arc::clone(inspection),
            unbegun: Lasting::default(),
            stuck_after: subscriber.stuck_after,
            gauges: Gauges::default(),
            inner: Mutex::new(Inner {
                activity: Activity::Starting,
                holds_lease: false,
                in_flight: Vec::new(),
                issue: None,
                leaseless: None,
                replay_issue: None,
                runner: None,
                looks: Looks::default(),
            }),
        }
    }

    /// Another instance holds the lease, as far as is known.
    pub(super) fn stands_by(&self) {
        let mut inner = self.inner();
        inner.activity = Activity::Standby;
        inner.holds_lease = false;
        inner.looks.is_set_up = true;
    }

    /// This instance holds the lease.
    pub(super) fn has_lease(&self) {
        let mut inner = self.inner();
        inner.activity = Activity::Starting;
        inner.holds_lease = true;
        inner.leaseless = None;
    }

    /// The subscriber is active, with these deliveries in flight.
    pub(super) fn works(&self, in_flight: &[Arc<InFlightTable>]) -> FigureRequests {
        let (to, requests) = mpsc::channel(QUESTIONS);
        let mut inner = self.inner();
        inner.activity = Activity::Active;
        inner.in_flight = in_flight.to_vec();
        inner.issue = None;
        inner.runner = Some(to);
        inner.looks.is_set_up = true;
        requests
    }

    /// The subscriber was told to stop.
    pub(super) fn drains(&self) {
        let mut inner = self.inner();
        inner.activity = Activity::Draining;
        inner.runner = None;
    }

    /// The subscriber has stopped.
    pub(super) fn ended(&self) {
        let mut inner = self.inner();
        inner.activity = Activity::Starting;
        inner.holds_lease = false;
        inner.in_flight.clear();
        inner.runner = None;
        drop(inner);
        self.gauges.forget();
    }

    /// The subscriber cannot begin. The runner tries again each second.
    pub(super) fn cannot_begin(&self, why: String) {
        if let Some(unsaid) = self.unbegun.again_as(&why, Instant::now()) {
            let (subscriber, error) = (&*self.facts.subscriber, &*short(&why));
            tracing::error!(subscriber, error, unsaid, "subscriber start failed");
        }
        self.inner().issue = Some(why);
    }

    /// Notes that the lease can be read and taken, or why not.
    pub(super) fn knows_lease(&self, why_not: Option<String>) {
        self.inner().leaseless = why_not.map(|why| {
            format!(
                "the lease cannot be acquired, so this instance is not active, and perhaps none is: {why}"
            )
        });
    }

    /// Notes that an entry of the bucket is skipped.
    pub(super) fn skips(&self, entry: BadEntry) {
        self.inspection.skips(entry);
    }

    /// Notes that the replays can be listed, or why not.
    pub(super) fn knows_replays(&self, why_not: Option<String>) {
        self.inner().replay_issue = why_not;
    }

    /// Has the runner look at the settings again, if it is active.
    pub(super) fn wake_runner(&self) {
        let runner = self.inner().runner.clone();
        // A full channel wakes it too.
        let _ = runner.map(|runner| runner.try_send(oneshot::channel().0));
    }

    /// Answers status requests, as long as it is polled.
    pub(super) async fn answer(self: Arc<Self>, bus: Bus) {
        let subject = subjects::status_of(&self.facts.subscriber);
        answer_on(&bus, &subject, || async {
            // Texts and numbers always serialise.
            serde_json::to_vec(&self.status().await).unwrap_or_default()
        })
        .await;
    }

    async fn status(&self) -> Instance {
        let figures = self.figures().await;
        let running = figures.as_ref().map(|figures| figures.running);
        let resting = figures.as_ref().map(|figures| figures.resting);
        let hot = figures.unwrap_or_default();
        let counts = self.tally.counts();
        let inner = self.inner();
        let held = inner.in_flight.iter().map(|in_flight| in_flight.held());
        let (in_flight, in_flight_bytes) =
            held.fold((0, 0), |sum, held| (sum.0 + held.0, sum.1 + held.1));
        let stalls = inner
            .in_flight
            .iter()
            .filter_map(|in_flight| in_flight.stall());
        let of_tables = inner
            .in_flight
            .iter()
            .flat_map(|in_flight| in_flight.issues());
        let mut issues: Vec<String> = inner.issue.iter().cloned().collect();
        issues.extend(inner.leaseless.clone());
        issues.extend(stalls);
        issues.extend(of_tables);
        issues.extend(self.tally.why_unconfirmed());
        issues.extend(self.inspection.issues_of(&self.facts));
        let mut said = HashSet::new();
        issues.retain(|issue| said.insert(issue.clone()));
        Instance {
            activity: inner.activity,
            issue: (!issues.is_empty()).then(|| issues.join("; ")),
            replay_issue: inner.replay_issue.clone(),
            holds_lease: self.facts.ordered.then_some(inner.holds_lease),
            circuit: self.throttle.circuit(),
            circuit_breaker: self.throttle.breaker().to_string(),
            concurrency: self.throttle.concurrency(),
            rate: self.throttle.rate().map(|rate| rate.to_string()),
            running,
            resting,
            unhandled: self.tally.why_unhandled(),
            is_full: self.gauges.is_full(),
            oldest_attempt: self.oldest_attempt(),
            last_ended_ms: self.tally.last_ended(Instant::now()).map(millis),
            open_circuit: self.open_circuit(),
            hottest: hot.hottest,
            failing: hot.failing,
            in_flight,
            in_flight_bytes,
            handled: counts.handled,
            failed: counts.failed,
            dead_lettered: counts.dead_lettered,
            last_delivery_at: self.tally.last_delivery_at(),
            clock: Some(Utc::now()),
            ..self.facts.clone()
        }
    }

    fn oldest_attempt(&self) -> Option<OldestAttempt> {
        let oldest = self.calls.oldest_of(&self.facts.subscriber)?;
        Some(OldestAttempt {
            name: oldest.name,
            event: oldest.event.to_string(),
            for_ms: millis(oldest.lasts),
        })
    }

    fn open_circuit(&self) -> Option<OpenCircuit> {
        let (open_for, at) = (self.throttle.open_for()?, Utc::now());
        let span = |span| TimeDelta::from_std(span).unwrap_or(TimeDelta::MAX);
        let (error, probe_in) = self.throttle.why_open();
        Some(OpenCircuit {
            since: shifted(at, -span(open_for)),
            error,
            next_probe_at: probe_in.map(|probe_in| shifted(at, span(probe_in))),
        })
    }

    /// The figures of the runner, if it is active.
    async fn figures(&self) -> Option<Figures> {
        let runner = self.inner().runner.clone()?;
        let (to, figures) = oneshot::channel();
        runner.try_send(to).ok()?;
        tokio::time::timeout(PATIENCE, figures).await.ok()?.ok()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reports the names of the worker's subscribers on request, as long as it is polled. One answer covers all of them: a
/// user whose permissions only allow responses may by default send one.
pub(super) async fn answer_everybody(bus: Bus, subscribers: Vec<String>) {
    answer_on(&bus, subjects::STATUS, || async {
        serde_json::to_vec(&subscribers).unwrap_or_default()
    })
    .await;
}

async fn answer_on<Told: Future<Output = Vec<u8>>>(
    bus: &Bus,
    subject: &str,
    tell: impl Fn() -> Told,
) {
    let unanswered = Lasting::default();
    loop {
        match bus.questions(subject).await {
            Ok(mut questions) => {
                while let Some(question) = questions.next().await {
                    question.answer(Bytes::from(tell().await)).await;
                }
            }
            Err(error) => {
                if let Some(unsaid) = unanswered.again(Instant::now()) {
                    tracing::warn!(subject, %error, unsaid, "subscriber status unavailable: requests are not received");
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Figures {
    pub(super) fn of<T>(
        running: usize,
        resting: usize,
        lanes: &Lanes<T>,
        failing: Vec<FailingKey>,
    ) -> Self {
        let hottest = lanes.hottest(HOTTEST).into_iter();
        Self {
            running,
            resting,
            hottest: hottest.map(|(key, n)| HotKey::new(key, n)).collect(),
            failing,
        }
    }
}

fn facts<S: Send + Sync + 'static>(
    subscriber: &EventSubscriber<S>,
    wants: Vec<WantedConsumer>,
) -> Instance {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let timeout_ms = millis(subscriber.timeout);
    Instance {
        subscriber: subscriber.name().to_owned(),
        id: Uuid::now_v7().to_string(),
        host: host.trim().to_owned(),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: Utc::now(),
        ordered: subscriber.ordered,
        concurrency: subscriber.concurrency,
        rate: subscriber.rate.map(|rate| rate.to_string()),
        max_in_flight_bytes: subscriber.memory,
        timeout_ms,
        retry: subscriber.retry.to_string(),
        wants,
        shadows: subscriber.shadows(),
        activity: Activity::Starting,
        issue: None,
        replay_issue: None,
        holds_lease: None,
        circuit: CircuitState::Unknown,
        circuit_breaker: String::new(),
        running: None,
        resting: None,
        in_flight: 0,
        in_flight_bytes: 0,
        hottest: Vec::new(),
        handled: 0,
        failed: 0,
        dead_lettered: 0,
        last_delivery_at: None,
        clock: None,
        unhandled: None,
        is_full: false,
        oldest_attempt: None,
        last_ended_ms: None,
        stuck_after_ms: subscriber.stuck_after.map(millis),
        open_circuit: None,
        failing: Vec::new(),
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
