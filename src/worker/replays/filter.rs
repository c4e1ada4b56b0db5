//! Filters what the consumers of a replay deliver: events in its range that match its filters pass, the others are
//! acknowledged. Never pulls, and never handles an event.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use chrono::{DateTime, Utc};

use crate::{
    executor::Ends,
    observer::DeliveryEnd,
    replay::{
        Rehearsal, ReplayRange, ReplayRequest,
        tag::{Count, Replaying},
    },
    worker::{intake::Intake, item::Item},
};

/// The findings that the task which runs the replay reads.
#[derive(Default)]
pub(super) struct Found {
    rehearsal: Mutex<Rehearsal>,
    /// A message arrived from the end of a range, or from beyond it.
    is_at_end: AtomicBool,
}

impl Found {
    pub(super) fn rehearsal(&self) -> MutexGuard<'_, Rehearsal> {
        self.rehearsal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a message has arrived from the end of a range since the last call.
    pub(super) fn is_at_end(&self) -> bool {
        self.is_at_end.swap(false, Relaxed)
    }
}

/// The filter of one stream.
pub(super) struct ReplayFilter {
    /// The last wanted sequence.
    last: u64,
    /// When its message was stored.
    last_at: Option<DateTime<Utc>>,
    key: Option<String>,
    correlation: Option<String>,
    replaying: Arc<Replaying>,
    ends: Ends,
    found: Arc<Found>,
}

impl Intake for ReplayFilter {
    fn replay(&self) -> Option<&Arc<Replaying>> {
        Some(&self.replaying)
    }

    fn ends(&self) -> &Ends {
        &self.ends
    }

    /// Returns the event if it is wanted. If the ack of an unwanted one is lost, it is redelivered and acknowledged
    /// again.
    async fn admit(&self, item: Item) -> Option<Item> {
        let at = item.delivery.position;
        if at.sequence >= self.last {
            item.in_flight.has_come(true, 0);
            self.found.is_at_end.store(true, Relaxed);
        }
        // In an older copy of the stream, messages stored after the range have sequences of the range.
        let is_behind = self.last_at.is_some_and(|last_at| at.stored_at > last_at);
        let is_within = at.sequence <= self.last && !is_behind;
        if is_within && self.matches(&item) {
            return Some(item);
        }
        self.ends.tell(&item.delivery, DeliveryEnd::Filtered);
        let is_answered = item.ack.ack_unconfirmed().await.is_ok();
        if is_answered && is_within {
            self.replaying.counters.add(Count::Filtered, 1);
            item.in_flight.release(at);
        } else {
            // Not released as handled: for messages beyond the range that need not be known.
            item.in_flight.let_go(at);
        }
        None
    }
}

impl ReplayFilter {
    pub(super) fn new(
        range: &ReplayRange,
        request: &ReplayRequest,
        replaying: &Arc<Replaying>,
        ends: &Ends,
        found: &Arc<Found>,
    ) -> Self {
        Self {
            last: range.last,
            last_at: range.last_at,
            key: request.key.clone(),
            correlation: request.correlation.clone(),
            replaying: Arc::clone(replaying),
            ends: ends.clone(),
            found: Arc::clone(found),
        }
    }

    fn matches(&self, item: &Item) -> bool {
        if item.ack.is_marker() {
            return false;
        }
        if self.key.is_none() && self.correlation.is_none() {
            return true;
        }
        // A message that is not an event has neither.
        let Ok(envelope) = &item.delivery.envelope else {
            return false;
        };
        let is_key = |key: &String| envelope.key() == Some(key);
        let is_correlation = |id: &String| envelope.correlation_id() == *id;
        self.key.as_ref().is_none_or(is_key) && self.correlation.as_ref().is_none_or(is_correlation)
    }
}
