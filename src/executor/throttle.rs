//! When the attempts of one subscriber may begin, and how their results change its circuit. Reads the clock and tells
//! the observers for a [circuit](crate::policy::breaker) and a [rate](crate::policy::rate); never waits and never runs
//! anything.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    observer::{Observation, Observers},
    policy::{
        breaker::{Attempted, Circuit, CircuitBreaker, CircuitState, Gate, Load, Permit},
        rate::{Bucket, Rate},
    },
};

/// Shared by the runner, which begins attempts, and the executor, which ends them.
pub(crate) struct Throttle {
    subscriber: Arc<str>,
    observers: Observers,
    inner: Mutex<Inner>,
}

struct Inner {
    circuit: Circuit,
    bucket: Option<Bucket>,
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
            inner: Mutex::new(Inner {
                circuit: Circuit::new(breaker).under(load),
                bucket: rate.map(Bucket::new),
                stands_at: None,
            }),
        }
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

    /// Records that an attempt at an event of this name has ended. Returns whether a failure counts against the event.
    pub(crate) fn end(&self, permit: Permit, name: &str, ended: Attempted) -> bool {
        let mut inner = self.inner();
        let now = inner.now();
        let change = inner.circuit.end(permit, name, ended, now);
        let counts = inner.circuit.counts_failures();
        drop(inner);
        if let Some(change) = change {
            let subscriber = &self.subscriber;
            self.observers
                .tell(&Observation::Circuit { subscriber, change });
        }
        counts
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
    /// The time by the clock that the runner's timers use.
    fn now(&self) -> Instant {
        let runs = || tokio::time::Instant::now().into_std();
        self.stands_at.unwrap_or_else(runs)
    }
}
