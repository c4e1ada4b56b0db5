//! The counts of one subscriber, as an observer of what ends in it. Its labels are looked up when it begins; an
//! observation then adds to atomics, and takes the lock of one histogram. Never waits.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use chrono::{DateTime, Utc};
use prometheus_client::metrics::exemplar::HistogramWithExemplars;

use super::{
    families as is,
    histogram::{ATTEMPTS, DELAYS, Histogram},
    sheet::{Label, Sheet},
    trace_id::{Exemplar, exemplar},
};
use crate::{
    observer::{
        DeliveryEnd, DeliveryFacts, KeyChange, LeaseChange, Observation, Observer, ReplayChange,
    },
    policy::{
        breaker::Change,
        failure::Fault,
        outcome::{Cause, Outcome},
    },
    replay::{ReplayState, tag::ReplayId},
};

/// The most names of events that have series of their own.
const MOST_NAMES: usize = 100;

/// The label of the names beyond, and of what is no event.
const OTHER: &str = "other";

pub(super) struct Subscriber {
    subscriber: Label,
    by_name: HashMap<&'static str, OfName>,
    /// Of names that the code does not know.
    others: OfName,
    stored_to_handled: Histogram,
    commit_to_handled: Histogram,
    deliveries: AtomicU64,
    unconfirmed: AtomicU64,
    dead_letters_lost: AtomicU64,
    redriven: AtomicU64,
    keys_parked: AtomicU64,
    keys_unparked: AtomicU64,
    circuit_opened: AtomicU64,
    lease_changes: [AtomicU64; LEASE_CHANGES.len()],
    /// When an attempt last ended, in milliseconds since 1970; 0 for never.
    progress_at: AtomicI64,
    replays: Mutex<Replays>,
}

/// The counts of the events with one name.
struct OfName {
    name: Label,
    attempts: [AtomicU64; OUTCOMES.len()],
    dead_letters: [AtomicU64; CAUSES.len()],
    duration: HistogramWithExemplars<Exemplar>,
}

#[derive(Default)]
struct Replays {
    /// Those that run here, and since when they are stalled.
    running: HashMap<ReplayId, Option<Instant>>,
    ended: [u64; ENDS.len()],
}

/// How an attempt, or a delivery without one, has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Ack,
    Duplicate,
    Retry,
    Timeout,
    Panic,
    Defer,
    Reject,
    Exhausted,
    Skipped,
    HandedBack,
    Unhandled,
}

const OUTCOMES: [(End, &str); 11] = [
    (End::Ack, "ack"),
    (End::Duplicate, "duplicate"),
    (End::Retry, "retry"),
    (End::Timeout, "timeout"),
    (End::Panic, "panic"),
    (End::Defer, "defer"),
    (End::Reject, "reject"),
    (End::Exhausted, "exhausted"),
    (End::Skipped, "skipped"),
    (End::HandedBack, "handed_back"),
    (End::Unhandled, "unhandled"),
];
/// Outcomes whose series exists before the first of them: an increase from nothing would not be seen.
const FROM_THE_START: [End; 6] = [
    End::Ack,
    End::Retry,
    End::Timeout,
    End::Panic,
    End::Reject,
    End::Exhausted,
];

const CAUSES: [&str; 9] = [
    "rejected",
    "exhausted",
    "undecodable",
    "unknown",
    "outside-inbox",
    "crashed",
    "parked-key",
    "removed",
    OTHER,
];
/// Causes whose series exists before the first dead letter.
const COMMON_CAUSES: [&str; 3] = ["rejected", "exhausted", "undecodable"];

const LEASE_CHANGES: [&str; 3] = ["gained", "standby", "lost"];

const ENDS: [&str; 4] = ["done", "cancelled", "failed", OTHER];

impl Subscriber {
    pub(super) fn new(subscriber: &str, names: &[&'static str]) -> Self {
        let names = names.iter().take(MOST_NAMES);
        Self {
            subscriber: subscriber.into(),
            by_name: names.map(|name| (*name, OfName::new(name))).collect(),
            others: OfName::new(OTHER),
            stored_to_handled: Histogram::new(DELAYS),
            commit_to_handled: Histogram::new(DELAYS),
            deliveries: AtomicU64::new(0),
            unconfirmed: AtomicU64::new(0),
            dead_letters_lost: AtomicU64::new(0),
            redriven: AtomicU64::new(0),
            keys_parked: AtomicU64::new(0),
            keys_unparked: AtomicU64::new(0),
            circuit_opened: AtomicU64::new(0),
            lease_changes: Default::default(),
            progress_at: AtomicI64::new(0),
            replays: Mutex::default(),
        }
    }

    pub(super) fn write(&self, sheet: &mut Sheet) {
        let of = &self.subscriber;
        for name in self.by_name.values() {
            name.write(of, true, sheet);
        }
        self.others.write(of, false, sheet);
        let stored = self.stored_to_handled.snapshot();
        sheet.histogram(&is::STORED_TO_HANDLED, [of], stored);
        let committed = self.commit_to_handled.snapshot();
        sheet.histogram(&is::COMMIT_TO_HANDLED, [of], committed);
        for (family, count) in [
            (&is::DELIVERIES, &self.deliveries),
            (&is::UNCONFIRMED, &self.unconfirmed),
            (&is::DEAD_LETTERS_LOST, &self.dead_letters_lost),
            (&is::REDRIVEN, &self.redriven),
            (&is::KEYS_PARKED, &self.keys_parked),
            (&is::KEYS_UNPARKED, &self.keys_unparked),
            (&is::CIRCUIT_OPENED, &self.circuit_opened),
        ] {
            sheet.count(family, [of], count.load(Relaxed));
        }
        for (change, count) in LEASE_CHANGES.into_iter().zip(&self.lease_changes) {
            let count = count.load(Relaxed);
            if count > 0 {
                sheet.count(&is::LEASE_CHANGES, [of, &change.into()], count);
            }
        }
        let progress_at = self.progress_at.load(Relaxed);
        if progress_at > 0 {
            #[allow(clippy::cast_precision_loss)] // exact until the year 285000
            let seconds = progress_at as f64 / 1000.0;
            sheet.gauge(&is::LAST_PROGRESS, [of], seconds);
        }
        self.replays().write(of, sheet);
    }

    fn delivery(&self, of: DeliveryFacts<'_>, end: DeliveryEnd<'_>) {
        let counted = match end {
            DeliveryEnd::Decided {
                attempt,
                outcome,
                fault,
                elapsed,
                ..
            } => return self.decided(of, attempt, ended(outcome, fault), elapsed),
            DeliveryEnd::DeadLettered {
                letter, is_stored, ..
            } => {
                if is_stored {
                    let counts = &self.of(of).dead_letters;
                    counts.get(cause(&letter.cause)).into_iter().for_each(add);
                }
                return;
            }
            DeliveryEnd::DeadLetterLost { .. } => return add(&self.dead_letters_lost),
            DeliveryEnd::Unconfirmed { .. } => return add(&self.unconfirmed),
            DeliveryEnd::Skipped
            | DeliveryEnd::Dropped
            | DeliveryEnd::Filtered
            | DeliveryEnd::Rehearsed
            | DeliveryEnd::Marker => End::Skipped,
            DeliveryEnd::HandledBefore => End::Duplicate,
            DeliveryEnd::HandedBack | DeliveryEnd::Returned => End::HandedBack,
            DeliveryEnd::Unhandled { .. } => End::Unhandled,
        };
        self.of(of).count(counted);
    }

    fn decided(&self, of: DeliveryFacts<'_>, attempt: u32, ended: End, elapsed: Duration) {
        let now: DateTime<Utc> = SystemTime::now().into();
        let counts = self.of(of);
        counts.count(ended);
        self.progress_at.store(now.timestamp_millis(), Relaxed);
        // Without an attempt no handler was called.
        if attempt > 0 && ended != End::Duplicate {
            let lineage = of.event.map(|event| event.lineage());
            let traced = lineage.and_then(|lineage| exemplar(lineage.traceparent.as_deref()?));
            let at = traced.map(|_| now.into());
            counts.duration.observe(elapsed.as_secs_f64(), traced, at);
        }
        if ended != End::Ack || of.replay.is_some() {
            return;
        }
        if of.redrives > 0 {
            return add(&self.redriven);
        }
        let since = |then: DateTime<Utc>| (now - then).as_seconds_f64();
        self.stored_to_handled.observe(since(of.stored_at));
        if let Some(committed) = of.event.and_then(|event| event.time()) {
            self.commit_to_handled.observe(since(committed));
        }
    }

    fn of(&self, facts: DeliveryFacts<'_>) -> &OfName {
        let name = facts.event.map(|event| event.name().as_str());
        let known = name.and_then(|name| self.by_name.get(name));
        known.unwrap_or(&self.others)
    }

    fn replays(&self) -> MutexGuard<'_, Replays> {
        self.replays.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Subscriber {
    fn observe(&self, observation: &Observation<'_>) {
        match *observation {
            Observation::Arrived => add(&self.deliveries),
            Observation::Delivery(of, end) => self.delivery(of, end),
            Observation::Replay { replay, change, .. } => self.replays().note(replay, change),
            Observation::Key { change, .. } => match change {
                KeyChange::Parked { .. } => add(&self.keys_parked),
                KeyChange::StillParked => {}
                KeyChange::Unparked => add(&self.keys_unparked),
            },
            Observation::Lease { change, .. } => {
                let [gained, standby, lost] = &self.lease_changes;
                add(match change {
                    LeaseChange::Gained { .. } => gained,
                    LeaseChange::Standby => standby,
                    LeaseChange::Lost => lost,
                });
            }
            Observation::Circuit { change, .. } => match change {
                Change::Opened { .. } => add(&self.circuit_opened),
                Change::StaysOpen { .. } | Change::Closed => {}
            },
            Observation::Batch(_)
            | Observation::Interrupted { .. }
            | Observation::Parked { .. }
            | Observation::DeadLetter(..) => {}
        }
    }
}

impl OfName {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            attempts: Default::default(),
            dead_letters: Default::default(),
            duration: HistogramWithExemplars::new(ATTEMPTS.iter().copied()),
        }
    }

    fn count(&self, ended: End) {
        let at = OUTCOMES.iter().position(|(end, _)| *end == ended);
        let count = at.and_then(|at| self.attempts.get(at));
        count.into_iter().for_each(add);
    }

    /// Writes the counts. Those of unknown names have no series before their first.
    fn write(&self, subscriber: &Label, is_known: bool, sheet: &mut Sheet) {
        let mut attempts = 0;
        for ((end, outcome), count) in OUTCOMES.into_iter().zip(&self.attempts) {
            let count = count.load(Relaxed);
            attempts += count;
            if count > 0 || is_known && FROM_THE_START.contains(&end) {
                let labels = [subscriber, &self.name, &outcome.into()];
                sheet.count(&is::ATTEMPTS, labels, count);
            }
        }
        for (cause, count) in CAUSES.into_iter().zip(&self.dead_letters) {
            let count = count.load(Relaxed);
            if count > 0 || is_known && COMMON_CAUSES.contains(&cause) {
                let labels = [subscriber, &self.name, &cause.into()];
                sheet.count(&is::DEAD_LETTERS, labels, count);
            }
        }
        if is_known || attempts > 0 {
            let labels = [subscriber, &self.name];
            sheet.with_exemplars(&is::ATTEMPT_DURATION, labels, &self.duration);
        }
    }
}

impl Replays {
    fn note(&mut self, replay: ReplayId, change: ReplayChange<'_>) {
        match change {
            ReplayChange::Running { .. } | ReplayChange::Continued => {
                self.running.insert(replay, None);
            }
            ReplayChange::Stalled { .. } => {
                let since = self.running.entry(replay).or_default();
                since.get_or_insert_with(Instant::now);
            }
            ReplayChange::Stopped { .. } => drop(self.running.remove(&replay)),
            ReplayChange::Ended { state } => {
                let at = match state {
                    ReplayState::Done => 0,
                    ReplayState::Cancelled => 1,
                    ReplayState::Failed => 2,
                    ReplayState::Running | ReplayState::Paused | ReplayState::Unknown => 3,
                };
                if let Some(count) = self.ended.get_mut(at) {
                    *count += 1;
                }
            }
        }
    }

    fn write(&self, subscriber: &Label, sheet: &mut Sheet) {
        #[allow(clippy::cast_precision_loss)] // a handful
        let running = self.running.len() as f64;
        sheet.gauge(&is::REPLAYS_RUNNING, [subscriber], running);
        let stalled = self.running.values().flatten();
        let longest = stalled.map(Instant::elapsed).max().unwrap_or_default();
        sheet.gauge(&is::REPLAY_STUCK, [subscriber], longest.as_secs_f64());
        for (state, count) in ENDS.into_iter().zip(self.ended) {
            if count > 0 {
                sheet.count(&is::REPLAYS_ENDED, [subscriber, &state.into()], count);
            }
        }
    }
}

/// A handler that hangs or panics is told apart from one that reports an error.
fn ended(outcome: &Outcome, fault: Option<Fault>) -> End {
    match (outcome, fault) {
        (Outcome::Ack, _) => End::Ack,
        (Outcome::Duplicate, _) => End::Duplicate,
        (Outcome::Retry(_), Some(Fault::Timeout)) => End::Timeout,
        (Outcome::Retry(_), Some(Fault::Panic)) => End::Panic,
        (Outcome::Retry(_), Some(Fault::Error) | None) => End::Retry,
        (Outcome::Defer(_), _) => End::Defer,
        (Outcome::Reject(letter), _) if letter.cause == Cause::Exhausted => End::Exhausted,
        (Outcome::Reject(_), _) => End::Reject,
    }
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Relaxed);
}

fn cause(cause: &Cause) -> usize {
    let word = cause.as_str();
    let at = CAUSES.iter().position(|known| *known == word);
    at.unwrap_or(CAUSES.len() - 1)
}
