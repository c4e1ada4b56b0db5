//! What a replay wants of what its consumers deliver: what is in its range and matches its filters. Answers for the
//! rest. Never pulls, and never handles an event.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use chrono::{DateTime, Utc};

use crate::{
    job::{Rehearsal, ReplayRange, ReplayRequest},
    replaying::{Count, Course},
    worker::source::Item,
};

/// What whoever looks after the replay wants to know of what was found.
#[derive(Default)]
pub(super) struct Found {
    rehearsal: Mutex<Rehearsal>,
    /// Something came from the end of a range, or from beyond it.
    is_at_end: AtomicBool,
}

impl Found {
    pub(super) fn rehearsal(&self) -> MutexGuard<'_, Rehearsal> {
        self.rehearsal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something has come from the end of a range since it was asked last.
    pub(super) fn is_at_end(&self) -> bool {
        self.is_at_end.swap(false, Relaxed)
    }
}

/// For one stream.
pub(in crate::worker) struct Sieve {
    /// The last sequence that is wanted.
    last: u64,
    /// When its message was stored.
    last_at: Option<DateTime<Utc>>,
    key: Option<String>,
    correlation: Option<String>,
    course: Arc<Course>,
    found: Arc<Found>,
}

impl Sieve {
    pub(super) fn new(
        range: &ReplayRange,
        request: &ReplayRequest,
        course: &Arc<Course>,
        found: &Arc<Found>,
    ) -> Self {
        Self {
            last: range.last,
            last_at: range.last_at,
            key: request.key.clone(),
            correlation: request.correlation.clone(),
            course: Arc::clone(course),
            found: Arc::clone(found),
        }
    }

    /// Gives an event back that is wanted. Should the answer to another one be lost, it comes again, and is answered
    /// again.
    pub(in crate::worker) async fn sift(&self, item: Item) -> Option<Item> {
        let at = item.arrival.at;
        if at.sequence >= self.last {
            item.hands.has_come(true, 0);
            self.found.is_at_end.store(true, Relaxed);
        }
        // In an older copy of the stream, the sequences of the range are given to messages that were stored behind it.
        let is_behind = self.last_at.is_some_and(|last_at| at.stored_at > last_at);
        let is_within = at.sequence <= self.last && !is_behind;
        if is_within && self.matches(&item) {
            return Some(item);
        }
        let is_answered = item.delivery.ack_unconfirmed().await.is_ok();
        if is_answered && is_within {
            self.course.add(Count::Filtered, 1);
            item.hands.release(at);
        } else {
            // Not as one that was handled: of what is beyond the range nobody needs to know that.
            item.hands.let_go(at);
        }
        None
    }

    fn matches(&self, item: &Item) -> bool {
        if item.delivery.is_marker() {
            return false;
        }
        if self.key.is_none() && self.correlation.is_none() {
            return true;
        }
        // What names no event has neither.
        let Ok(envelope) = &item.arrival.envelope else {
            return false;
        };
        let is_key = |key: &String| envelope.key() == Some(key);
        let is_correlation = |id: &String| envelope.correlation_id() == *id;
        self.key.as_ref().is_none_or(is_key) && self.correlation.as_ref().is_none_or(is_correlation)
    }
}
