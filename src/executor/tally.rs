//! Counts of a subscriber's outcomes in this process, since its start. Never decides anything.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use chrono::{DateTime, Utc};

use crate::{
    log::{Lasting, short},
    observer::{DeliveryEnd, Observation, Observer},
    policy::outcome::Outcome,
};

/// Written by the runner and the executor, read by the status reporter.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    handled: AtomicU64,
    failed: AtomicU64,
    dead_lettered: AtomicU64,
    deliveries: AtomicU64,
    /// When the last delivery came, in milliseconds since 1970; 0 for none.
    delivered_at: AtomicI64,
    /// When the last attempt ended.
    ended: Moment,
    unconfirmed: Mutex<Option<Unconfirmed>>,
    /// Answers that were not confirmed since the last confirmed one.
    unconfirmed_answers: AtomicU64,
    unhandled: Mutex<Unhandled>,
}

/// A moment that is noted without a lock.
#[derive(Debug)]
struct Moment {
    base: Instant,
    /// In milliseconds since the base, from 1; 0 for none.
    millis: AtomicU64,
}

/// Answers that were not confirmed, since the last confirmed one.
#[derive(Debug, Clone)]
struct Unconfirmed {
    why: String,
    since: Instant,
    last: Instant,
}

/// An answer that is not tried again has no bearing on the present; one that is, is tried again sooner than this.
const TRIED_AGAIN: Duration = Duration::from_secs(20);

/// Recent events whose names no handler takes.
#[derive(Debug, Default)]
struct Unhandled {
    names: BTreeMap<String, OfName>,
    /// When a name arrived that did not fit into `names`.
    others_at: Option<Instant>,
}

/// The maximum number of names that are reported.
const MOST_NAMES: usize = 10;
/// A name is reported for this long after its last event, if none waits here: its redelivery comes sooner.
const LATELY: Duration = Duration::from_secs(15);

#[derive(Debug)]
struct OfName {
    /// How many of its events wait in the process.
    waiting: usize,
    since: DateTime<Utc>,
    last: Instant,
    said: Lasting,
}

/// The counts at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) handled: u64,
    pub(crate) failed: u64,
    pub(crate) dead_lettered: u64,
}

impl Tally {
    /// Records a delivery.
    fn delivered(&self) {
        let now: DateTime<Utc> = SystemTime::now().into();
        self.delivered_at.store(now.timestamp_millis(), Relaxed);
        self.deliveries.fetch_add(1, Relaxed);
    }

    /// How many deliveries have arrived.
    pub(crate) fn deliveries(&self) -> u64 {
        self.deliveries.load(Relaxed)
    }

    /// Counts the end of an attempt. A dead letter is counted [when it is stored](Tally::dead_lettered).
    fn ended(&self, outcome: &Outcome) {
        self.ended.note(Instant::now());
        let counter = match outcome {
            Outcome::Ack | Outcome::Duplicate => &self.handled,
            Outcome::Retry(_) | Outcome::Defer(_) => &self.failed,
            Outcome::Reject(_) => return,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts an event that was to be dead-lettered: its dead letter is confirmed, or the event is redelivered.
    fn dead_lettered(&self, is_stored: bool) {
        let counter = match is_stored {
            true => &self.dead_lettered,
            false => &self.failed,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Records that the server has not confirmed an answer.
    fn unconfirmed(&self, why: &str) {
        let now = Instant::now();
        let mut reason = self.reason();
        // What failed long before was another trouble.
        let before = reason
            .as_ref()
            .filter(|before| now.saturating_duration_since(before.last) <= TRIED_AGAIN);
        let since = before.map_or(now, |before| before.since);
        *reason = Some(Unconfirmed {
            why: why.to_owned(),
            since,
            last: now,
        });
        drop(reason);
        self.unconfirmed_answers.fetch_add(1, Relaxed);
    }

    /// Records that the server has confirmed an answer.
    pub(crate) fn confirmed(&self) {
        if self.unconfirmed_answers.load(Relaxed) > 0 {
            self.unconfirmed_answers.store(0, Relaxed);
            *self.reason() = None;
        }
    }

    /// Records an event whose name no handler takes. When it is to be logged, returns how often it occurred since it
    /// was last logged.
    pub(crate) fn unhandled(&self, name: &str) -> Option<u64> {
        let now = Instant::now();
        self.unhandled_names().of(name, now)?.said.again(now)
    }

    /// Records that such an event waits in the process.
    pub(crate) fn unhandled_waits(&self, name: &str) {
        if let Some(known) = self.unhandled_names().of(name, Instant::now()) {
            known.waiting += 1;
        }
    }

    /// Records that such an event does not wait any more.
    pub(crate) fn unhandled_ends(&self, name: &str) {
        if let Some(known) = self.unhandled_names().names.get_mut(&*short(name)) {
            known.waiting = known.waiting.saturating_sub(1);
        }
    }

    /// Records that no such event waits any more.
    pub(crate) fn nothing_waits(&self) {
        self.unhandled_names().names.clear();
    }

    /// The names that no handler takes, if there are such events now.
    pub(crate) fn why_unhandled(&self) -> Option<String> {
        let now = Instant::now();
        let mut unhandled = self.unhandled_names();
        unhandled.forget(now);
        if unhandled.names.is_empty() {
            return None;
        }
        let names = unhandled.names.iter().map(|(name, known)| {
            let (waiting, since) = (known.waiting, known.since.format("%FT%TZ"));
            match waiting {
                0 => format!("{name} (since {since})"),
                waiting => format!("{name} ({waiting} wait, since {since})"),
            }
        });
        let names = names.collect::<Vec<_>>().join(", ");
        let more = unhandled.others_at.map_or("", |_| ", and other events");
        Some(format!(
            "no handler of this instance takes {names}{more}, which the durable delivers: these events wait for an \
             instance that handles them, and are dead-lettered after an hour; if no instance ever will, run `tidings \
             subscribers prune`"
        ))
    }

    fn unhandled_names(&self) -> MutexGuard<'_, Unhandled> {
        self.unhandled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            handled: self.handled.load(Relaxed),
            failed: self.failed.load(Relaxed),
            dead_lettered: self.dead_lettered.load(Relaxed),
        }
    }

    pub(crate) fn last_delivery_at(&self) -> Option<DateTime<Utc>> {
        match self.delivered_at.load(Relaxed) {
            0 => None,
            millis => DateTime::from_timestamp_millis(millis),
        }
    }

    /// Why the last answer was not confirmed, if none was confirmed since.
    pub(crate) fn why_unconfirmed(&self) -> Option<String> {
        let reason = self.reason();
        reason.as_ref().map(|unconfirmed| unconfirmed.why.clone())
    }

    /// The same with for how long answers have failed, while they are still tried. One that failed once, with nothing
    /// tried since, has failed for no time.
    pub(crate) fn unconfirmed_for(&self, now: Instant) -> Option<(String, Duration)> {
        let reason = self.reason().clone()?;
        let is_tried = now.saturating_duration_since(reason.last) <= TRIED_AGAIN;
        is_tried.then(|| {
            let failed_for = reason.last.saturating_duration_since(reason.since);
            (reason.why, failed_for)
        })
    }

    /// Since when no attempt has ended; `None` when none ever has.
    pub(crate) fn last_ended(&self, now: Instant) -> Option<Duration> {
        self.ended.age(now)
    }

    fn reason(&self) -> MutexGuard<'_, Option<Unconfirmed>> {
        self.unconfirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Tally {
    fn observe(&self, observation: &Observation<'_>) {
        match observation {
            Observation::Arrived => self.delivered(),
            Observation::Delivery(_, end) => match end {
                DeliveryEnd::Decided { outcome, .. } => self.ended(outcome),
                DeliveryEnd::DeadLettered { is_stored, .. } => self.dead_lettered(*is_stored),
                DeliveryEnd::Unconfirmed { error, .. } => self.unconfirmed(error),
                // Counted before: the observers are told whether a line of the log is due.
                DeliveryEnd::Unhandled { .. } => {}
                DeliveryEnd::DeadLetterLost { .. }
                | DeliveryEnd::HandedBack
                | DeliveryEnd::Skipped
                | DeliveryEnd::Dropped
                | DeliveryEnd::Filtered
                | DeliveryEnd::Rehearsed
                | DeliveryEnd::Marker
                | DeliveryEnd::HandledBefore
                | DeliveryEnd::Returned => {}
            },
            Observation::Batch(_)
            | Observation::Interrupted { .. }
            | Observation::Parked { .. }
            | Observation::DeadLetter(..)
            | Observation::Replay { .. }
            | Observation::Key { .. }
            | Observation::Lease { .. }
            | Observation::Circuit { .. } => {}
        }
    }
}

impl Default for Moment {
    fn default() -> Self {
        Self {
            base: Instant::now(),
            millis: AtomicU64::new(0),
        }
    }
}

impl Moment {
    fn note(&self, now: Instant) {
        let millis = now.saturating_duration_since(self.base).as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX).saturating_add(1);
        self.millis.store(millis, Relaxed);
    }

    fn age(&self, now: Instant) -> Option<Duration> {
        let millis = self.millis.load(Relaxed).checked_sub(1)?;
        let noted = self.base.checked_add(Duration::from_millis(millis))?;
        Some(now.saturating_duration_since(noted))
    }
}

impl Unhandled {
    /// The record of a name; `None` when there are too many names.
    fn of(&mut self, name: &str, now: Instant) -> Option<&mut OfName> {
        let name = short(name);
        if !self.names.contains_key(&*name) {
            self.forget(now);
            if self.names.len() == MOST_NAMES {
                self.others_at = Some(now);
                return None;
            }
        }
        let known = self
            .names
            .entry(name.into_owned())
            .or_insert_with(|| OfName {
                waiting: 0,
                since: Utc::now(),
                last: now,
                said: Lasting::default(),
            });
        known.last = now;
        Some(known)
    }

    fn forget(&mut self, now: Instant) {
        let is_late = |at: Instant| now.saturating_duration_since(at) > LATELY;
        self.names
            .retain(|_, known| known.waiting > 0 || !is_late(known.last));
        self.others_at = self.others_at.filter(|at| !is_late(*at));
    }
}

#[cfg(test)]
mod tests;
