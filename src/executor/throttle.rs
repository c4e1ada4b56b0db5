//! When the attempts of one subscriber may begin, and how their results change its circuit. Reads the clock and tells
//! the observers for a [circuit](crate::policy::breaker) and a [rate](crate::policy::rate); never waits and never runs
//! anything.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    log::short,
    observer::{Observation, Observers},
    policy::{
        adjustment::{Changed, SubscriberAdjustment},
        breaker::{Attempted, Change, Circuit, CircuitBreaker, CircuitState, Gate, Load, Permit},
        rate::{Bucket, Rate},
    },
};

/// Shared by the runner, which begins attempts, and the executor, which ends them.
pub(crate) struct Throttle {
    subscriber: Arc<str>,
    observers: Observers,
    /// How many events are handled at once. Read without the lock.
    concurrency: AtomicUsize,
    inner: Mutex<Inner>,
}

struct Inner {
    load: Load,
    circuit: Circuit,
    bucket: Option<Bucket>,
    /// Since when the circuit has not been closed.
    open_since: Option<Instant>,
    /// The error of the last attempt that opened it, or kept it open.
    open_by: Option<String>,
    /// The current time, when a test moves the clock.
    stands_at: Option<Instant>,
}

/// The result of trying to begin an attempt.
pub(crate) enum Begin<T> {
    Begun(T, Permit),
    /// Not before this moment.
    Later(Instant),
    /// There is no event, or no attempt may begin before another has ended.
    Nothing,
}

/// How much may be pulled from the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pulls {
    /// As much as there is room for.
    All,
    /// One event, for the probe.
    One,
    None,
}

impl Throttle {
    pub(crate) fn new(
        subscriber: Arc<str>,
        breaker: CircuitBreaker,
        load: Load,
        rate: Option<Rate>,
        observers: Observers,
    ) -> Self {
        Self {
            subscriber,
            observers,
            concurrency: AtomicUsize::new(load.concurrency),
            inner: Mutex::new(Inner {
                load,
                circuit: Circuit::new(breaker).under(load),
                bucket: rate.map(Bucket::new),
                open_since: None,
                open_by: None,
                stands_at: None,
            }),
        }
    }

    /// Takes new values over; returns what has changed. The runner has to be told.
    pub(crate) fn adjust(&self, to: &SubscriberAdjustment) -> Vec<Changed> {
        let mut inner = self.inner();
        let now = inner.now();
        let mut changed = Vec::new();
        let before = inner.load;
        if let Some(concurrency) = to.concurrency {
            let of = ("concurrency", &before.concurrency, &concurrency);
            changed.extend(Changed::new(of.0, of.1, of.2));
            inner.load.concurrency = concurrency;
            self.concurrency.store(concurrency, Ordering::Release);
        }
        if let Some(rate) = to.rate {
            let told = |rate: Option<Rate>| rate.map_or("none".to_owned(), |it| it.to_string());
            let old = told(inner.bucket.as_ref().map(Bucket::rate));
            changed.extend(Changed::new("rate_limit", &old, &told(rate)));
            inner.limit(rate, now);
        }
        let policy = inner.circuit.policy();
        let breaker = to.breaker.unwrap_or(policy);
        changed.extend(Changed::new("circuit_breaker", &policy, &breaker));
        let load = inner.load;
        let change = match (breaker, load) == (policy, before) {
            true => None,
            false => inner.circuit.adjust(breaker, load, now),
        };
        inner.note(change.as_ref(), now);
        drop(inner);
        self.tell(change);
        changed
    }

    /// How many events are handled at once.
    pub(crate) fn concurrency(&self) -> usize {
        self.concurrency.load(Ordering::Acquire)
    }

    /// How many attempts may begin per time.
    pub(crate) fn rate(&self) -> Option<Rate> {
        self.inner().bucket.as_ref().map(Bucket::rate)
    }

    /// When the circuit opens.
    pub(crate) fn breaker(&self) -> CircuitBreaker {
        self.inner().circuit.policy()
    }

    /// Begins an attempt with the item from `next`, if an attempt may begin.
    pub(crate) fn begin<T>(&self, next: impl FnOnce() -> Option<T>) -> Begin<T> {
        let mut inner = self.inner();
        let now = inner.now();
        match inner.circuit.gate(now) {
            Gate::Free | Gate::Probe => {}
            Gate::Until(moment) => return Begin::Later(moment),
            Gate::Probing => return Begin::Nothing,
        }
        let wait = |bucket: &Bucket| bucket.wait_until(now);
        if let Some(moment) = inner.bucket.as_ref().and_then(wait) {
            return Begin::Later(moment);
        }
        let Some(next) = next() else {
            return Begin::Nothing;
        };
        if let Some(bucket) = &mut inner.bucket {
            bucket.take(now);
        }
        let permit = inner.circuit.begin(now).unwrap_or_default();
        Begin::Begun(next, permit)
    }

    /// Records that an attempt at an event of this name has ended, with its error. Returns whether a failure counts
    /// against the event.
    pub(crate) fn end(
        &self,
        permit: Permit,
        name: &str,
        ended: Attempted,
        error: Option<&str>,
    ) -> bool {
        let mut inner = self.inner();
        let now = inner.now();
        let change = inner.circuit.end(permit, name, ended, now);
        inner.note(change.as_ref(), now);
        // Only a change of the circuit costs a copy of the text.
        if let Some(Change::Opened { .. } | Change::StaysOpen { .. }) = change {
            inner.open_by = error.map(|error| short(error).into_owned());
        }
        let counts = inner.circuit.counts_failures();
        drop(inner);
        self.tell(change);
        counts
    }

    fn tell(&self, change: Option<Change>) {
        if let Some(change) = change {
            let subscriber = &self.subscriber;
            self.observers
                .tell(&Observation::Circuit { subscriber, change });
        }
    }

    pub(crate) fn pulls(&self) -> Pulls {
        let inner = self.inner();
        if inner.circuit.counts_failures() {
            return Pulls::All;
        }
        match inner.circuit.gate(inner.now()) {
            Gate::Probe => Pulls::One,
            _ => Pulls::None,
        }
    }

    /// The state of the circuit.
    pub(crate) fn circuit(&self) -> CircuitState {
        let inner = self.inner();
        inner.circuit.shown(inner.now())
    }

    /// Why the circuit is not closed: the error of the last attempt that opened it, or kept it open; and how long until
    /// the next probe may begin.
    pub(crate) fn why_open(&self) -> (Option<String>, Option<Duration>) {
        let inner = self.inner();
        let now = inner.now();
        let until = match inner.circuit.gate(now) {
            Gate::Until(moment) => Some(moment.saturating_duration_since(now)),
            Gate::Free | Gate::Probe | Gate::Probing => None,
        };
        let error = inner.open_since.and(inner.open_by.clone());
        (error, until)
    }

    /// For how long the circuit has not been closed.
    pub(crate) fn open_for(&self) -> Option<Duration> {
        let inner = self.inner();
        let since = inner.open_since?;
        Some(inner.now().saturating_duration_since(since))
    }

    /// Advances the clock by this time; from then on, time passes only through this function.
    pub(crate) fn skip(&self, time: Duration) {
        let mut inner = self.inner();
        inner.stands_at = Some(inner.now() + time);
    }

    /// How long until a moment returned by [`Begin::Later`].
    pub(crate) fn until(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.inner().now())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Notes since when the circuit has not been closed.
    fn note(&mut self, change: Option<&Change>, now: Instant) {
        match change {
            Some(Change::Opened { .. }) => self.open_since = Some(now),
            Some(Change::Closed) => self.open_since = None,
            Some(Change::StaysOpen { .. }) | None => {}
        }
    }

    fn limit(&mut self, rate: Option<Rate>, now: Instant) {
        match (rate, &mut self.bucket) {
            (Some(rate), Some(bucket)) => bucket.adjust(rate, now),
            (rate, bucket) => *bucket = rate.map(Bucket::new),
        }
    }

    /// The time by the clock that the runner's timers use.
    fn now(&self) -> Instant {
        let runs = || tokio::time::Instant::now().into_std();
        self.stands_at.unwrap_or_else(runs)
    }
}
