//! What runs in this process, as endpoints, metrics and traces see it: a registry that subscribers and relays enter,
//! and that is read without waiting. Runs nothing, and decides nothing.

pub(crate) mod figures;
mod lasts;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use chrono::Utc;

#[cfg(feature = "ops")]
use crate::observer::Observer;
use crate::{
    executor::in_flight::{InFlight, Oldest},
    nats::Bus,
    observer::Observers,
    policy::{
        adjustment::Adjustment,
        issue_kind::IssueKind,
        preflight::{Concern, Severity},
    },
    preflight::PreflightRefusal,
};
use figures::{
    ConnectionFigures, Phase, ProcessFigures, RelayFigures, RuntimeFigures, SubscriberFigures,
};
pub(crate) use lasts::Lasts;

/// A process: the subscribers of a worker, and the background work that runs with it. Cheap to clone; the clones are
/// the same process. [`Background::join`](crate::worker::Background::join) is given the process of its worker.
#[derive(Clone, Default)]
pub struct Process(Arc<Shared>);

#[derive(Default)]
struct Shared {
    inner: Mutex<Inner>,
    /// Counts the ticks of the main runtime.
    ticks: AtomicU64,
}

#[derive(Default)]
struct Inner {
    observers: Observers,
    phase: Phase,
    subscribers: Vec<Weak<dyn SubscriberSource>>,
    relays: Vec<Weak<dyn RelaySource>>,
    /// How many relays are about to enter.
    expected_relays: usize,
    in_flight: Option<Arc<InFlight>>,
    /// Required tasks that have ended before the process drains.
    ended: Vec<String>,
    refusals: Vec<PreflightRefusal>,
    /// The streams that its subscribers and relays use.
    streams: BTreeSet<String>,
    /// How many findings each check of the start has.
    concerns: BTreeMap<(IssueKind, Severity), usize>,
    /// Without progress for this long, a part that has work is stuck; `None` while no endpoints say so.
    stuck_after: Option<Duration>,
    /// The ticks at the last look, and for how long there was no new one.
    seen: u64,
    silent: Duration,
    adjustable: Vec<Arc<dyn Adjustable>>,
    /// Those of the worker, and of the work that runs with it.
    connections: Vec<Bus>,
}

/// What has settings that can change while it runs.
pub(crate) trait Adjustable: Send + Sync {
    /// Adopts valid values. Returns whether the adjustment concerns this.
    fn adjust(&self, adjustment: &Adjustment) -> bool;
}

/// A subscriber of this process. Is read from any thread, also while the worker's threads are blocked: it never waits
/// for a task.
pub(crate) trait SubscriberSource: Send + Sync {
    /// The figures at this moment.
    fn figures(&self, now: Instant) -> SubscriberFigures;
}

/// A relay of this process. Is read from any thread, as a subscriber is.
pub(crate) trait RelaySource: Send + Sync {
    /// The figures at this moment.
    fn figures(&self, now: Instant) -> RelayFigures;
}

/// A task without which the process cannot work. When this is dropped before the process drains, the process is not
/// alive any more.
pub(crate) struct Living {
    process: Weak<Shared>,
    name: String,
}

impl Process {
    /// Adds an observer of everything that ends in this process. Call it before the worker runs: what runs already has
    /// its observers.
    #[cfg(feature = "ops")]
    pub(crate) fn observe(&self, observer: Arc<dyn Observer>) {
        let mut inner = self.0.inner();
        inner.observers = inner.observers.and(observer);
    }

    /// Adds what can be adjusted.
    pub(crate) fn register(&self, adjustable: Arc<dyn Adjustable>) {
        self.0.inner().adjustable.push(adjustable);
    }

    /// Applies valid values; returns whether the adjustment concerns anything in this process.
    pub(crate) fn adjust(&self, adjustment: &Adjustment) -> bool {
        let all = self.0.inner().adjustable.clone();
        let concerned = all.iter().filter(|one| one.adjust(adjustment));
        concerned.count() > 0
    }

    /// The observers that were added.
    pub(crate) fn observers(&self) -> Observers {
        self.0.inner().observers.clone()
    }

    /// Notes the phase of the worker.
    pub(crate) fn enters(&self, phase: Phase) {
        self.0.inner().phase = phase;
    }

    /// Enters a subscriber, for as long as it exists.
    pub(crate) fn has_subscriber(&self, subscriber: &Arc<impl SubscriberSource + 'static>) {
        let subscriber = Arc::downgrade(subscriber);
        let source: Weak<dyn SubscriberSource> = subscriber;
        self.0.inner().subscribers.push(source);
    }

    /// A relay is about to enter: until it has, the process is starting.
    pub(crate) fn expects_relay(&self) {
        self.0.inner().expected_relays += 1;
    }

    /// Enters a relay, for as long as it exists.
    pub(crate) fn has_relay(&self, relay: &Arc<impl RelaySource + 'static>) {
        let relay = Arc::downgrade(relay);
        let source: Weak<dyn RelaySource> = relay;
        let mut inner = self.0.inner();
        inner.expected_relays = inner.expected_relays.saturating_sub(1);
        inner.relays.push(source);
    }

    /// Notes the connections to NATS, with duplicates; none when the worker ends.
    pub(crate) fn has_connections(&self, all: Vec<Bus>) {
        let mut distinct: Vec<Bus> = Vec::new();
        for bus in all {
            if !distinct.iter().any(|known| known.is_same(&bus)) {
                distinct.push(bus);
            }
        }
        self.0.inner().connections = distinct;
    }

    /// Enters the calls of handlers.
    pub(crate) fn has_in_flight(&self, in_flight: &Arc<InFlight>) {
        self.0.inner().in_flight = Some(Arc::clone(in_flight));
    }

    /// Notes that a check at the start refuses: the process is about to end.
    pub(crate) fn refuses(&self, refusal: &PreflightRefusal) {
        self.0.inner().refusals.push(refusal.clone());
    }

    /// Notes streams that a subscriber or a relay uses.
    pub(crate) fn uses<'a>(&self, streams: impl Iterator<Item = &'a str>) {
        let mut inner = self.0.inner();
        inner.streams.extend(streams.map(str::to_owned));
    }

    /// The streams that are used.
    #[cfg(feature = "ops")]
    pub(crate) fn streams(&self) -> BTreeSet<String> {
        self.0.inner().streams.clone()
    }

    /// Notes what the checks at the start have found.
    pub(crate) fn has_concerns(&self, concerns: &[Concern]) {
        let mut inner = self.0.inner();
        for concern in concerns {
            let of = (concern.kind, concern.severity);
            *inner.concerns.entry(of).or_default() += 1;
        }
    }

    /// Notes for how long a part may make no progress.
    #[cfg(feature = "ops")]
    pub(crate) fn is_stuck_after(&self, stuck_after: Duration) {
        self.0.inner().stuck_after = Some(stuck_after);
    }

    /// Registers a task without which the process cannot work.
    pub(crate) fn living(&self, name: impl Into<String>) -> Living {
        Living {
            process: Arc::downgrade(&self.0),
            name: name.into(),
        }
    }

    /// Notes that the main runtime runs tasks: a task on it calls this at an interval.
    pub(crate) fn tick(&self) {
        self.0.ticks.fetch_add(1, Relaxed);
    }

    /// Notes whether the main runtime has ticked during this pause of the calling thread, which is not on that runtime.
    /// A process that was frozen and continues has not been silent.
    pub(crate) fn note_ticks(&self, pause: Duration) {
        let ticks = self.0.ticks.load(Relaxed);
        let mut inner = self.0.inner();
        let has_ticked = std::mem::replace(&mut inner.seen, ticks) != ticks;
        inner.silent = match has_ticked {
            true => Duration::ZERO,
            false => inner.silent.saturating_add(pause),
        };
    }

    /// Everything that is known of the process at this moment. No request is made, and no task is waited for.
    pub(crate) fn figures(&self) -> ProcessFigures {
        let now = Instant::now();
        let mut inner = self.0.inner();
        inner.subscribers.retain(|one| one.strong_count() > 0);
        inner.relays.retain(|one| one.strong_count() > 0);
        let subscribers: Vec<_> = inner.subscribers.iter().filter_map(Weak::upgrade).collect();
        let relays: Vec<_> = inner.relays.iter().filter_map(Weak::upgrade).collect();
        let silent = inner.silent;
        let phase = match (inner.phase, inner.expected_relays) {
            (Phase::Running, 1..) => Phase::Starting,
            (phase, _) => phase,
        };
        let (in_flight, ended_tasks) = (inner.in_flight.clone(), inner.ended.clone());
        let refusals = inner.refusals.clone();
        let (concerns, stuck_after) = (inner.concerns.clone(), inner.stuck_after);
        let connections = inner.connections.iter().map(|bus| ConnectionFigures {
            is_connected: bus.is_connected(),
            lost: *bus.losses().borrow(),
        });
        let connections = connections.collect();
        // A source may take locks of its own.
        drop(inner);
        let mut subscribers: Vec<SubscriberFigures> =
            subscribers.iter().map(|one| one.figures(now)).collect();
        if let Some(in_flight) = &in_flight {
            for subscriber in &mut subscribers {
                let oldest = in_flight.oldest_of(&subscriber.name);
                subscriber.oldest_attempt = oldest.as_ref().map(|oldest| oldest.lasts);
                let event = |oldest: Oldest| format!("{} {}", oldest.name, oldest.event);
                subscriber.oldest_event = oldest.map(event);
            }
        }
        let handlers = in_flight.filter(|_| !silent.is_zero()).map(|in_flight| {
            let inside: Vec<usize> = in_flight.polled().into_keys().collect();
            in_flight.named(&inside).to_string()
        });
        ProcessFigures {
            at: Utc::now(),
            phase,
            runtime: RuntimeFigures {
                silent,
                handlers: handlers.unwrap_or_default(),
            },
            ended_tasks,
            refusals,
            connections,
            concerns,
            stuck_after,
            relays: relays.iter().map(|one| one.figures(now)).collect(),
            subscribers,
        }
    }
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        let Some(process) = self.process.upgrade() else {
            return;
        };
        let mut inner = process.inner();
        if inner.phase == Phase::Running {
            inner.ended.push(std::mem::take(&mut self.name));
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Process").field(&self.observers()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_silent_for_the_looks_without_a_tick() {
        let (process, pause) = (Process::default(), Duration::from_secs(1));
        process.tick();
        process.note_ticks(pause);
        assert_eq!(process.figures().runtime.silent, Duration::ZERO);
        for _ in 0..31 {
            process.note_ticks(pause);
        }
        assert_eq!(process.figures().runtime.silent, pause * 31);
        process.tick();
        process.note_ticks(pause);
        assert_eq!(process.figures().runtime.silent, Duration::ZERO);
    }

    #[test]
    fn a_process_starts_until_its_relays_have_entered() {
        struct Idle;
        impl RelaySource for Idle {
            fn figures(&self, _: Instant) -> RelayFigures {
                unreachable!("it is gone before it is read")
            }
        }
        let process = Process::default();
        process.expects_relay();
        process.enters(Phase::Running);
        assert_eq!(process.figures().phase, Phase::Starting);
        process.has_relay(&Arc::new(Idle));
        assert_eq!(process.figures().phase, Phase::Running);
        process.expects_relay();
        process.enters(Phase::Draining);
        assert_eq!(process.figures().phase, Phase::Draining);
    }

    #[test]
    fn a_task_that_ends_while_the_process_works_is_named() {
        let process = Process::default();
        process.enters(Phase::Running);
        let (ends, stays) = (process.living("status of a"), process.living("status of b"));
        drop(ends);
        assert_eq!(process.figures().ended_tasks, ["status of a"]);
        process.enters(Phase::Draining);
        drop(stays);
        assert_eq!(process.figures().ended_tasks, ["status of a"]);
    }
}
