//! One delivery of an event: values only. Never answers it.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tidings_contract::{Envelope, wire::ReadError};

use crate::{position::Position, replay::tag::Replaying};

/// An event as a consumer delivers it.
pub(crate) struct Delivery {
    pub(crate) envelope: Result<Arc<Envelope>, ReadError>,
    /// The event's own subject, even when the message comes from the retries.
    pub(crate) subject: Arc<str>,
    /// The stream that first stored the event.
    pub(crate) stream: Arc<str>,
    pub(crate) sequence: u64,
    /// When the event was first stored.
    pub(crate) stored_at: DateTime<Utc>,
    /// The position of its message in the stream that delivered it.
    pub(crate) position: Position,
    /// The sequence of the delivery among those of its consumer, from 1.
    pub(crate) consumer_sequence: u64,
    /// How often the server has delivered the message, including this time. Not the number of attempts.
    pub(crate) delivered: u32,
    /// Whether the process may have died of the event before.
    pub(crate) is_suspect: bool,
    pub(crate) past: Past,
    /// The replay that the delivery is part of.
    pub(crate) replay: Option<Arc<Replaying>>,
}

/// The history of an event before this delivery.
#[derive(Debug, Clone, Default)]
pub(crate) struct Past {
    /// The number of failed attempts.
    pub(crate) failures: u32,
    pub(crate) first_failed_at: Option<DateTime<Utc>>,
    /// How often in a row it was deferred without counting an attempt.
    pub(crate) deferrals: u32,
    /// How often it was redriven.
    pub(crate) redrives: u32,
    /// The dead letter that it was last redriven from; 0 without one.
    pub(crate) redriven_from: u64,
}

impl Delivery {
    /// The envelope, when the message is an event.
    pub(crate) fn event(&self) -> Option<&Arc<Envelope>> {
        self.envelope.as_ref().ok()
    }

    /// The number of its next attempt, from 1.
    pub(crate) fn next_attempt(&self) -> u32 {
        self.past.failures.saturating_add(1)
    }
}

impl Past {
    /// Notes that the event was deferred once more.
    pub(super) fn note_deferral(&mut self) {
        self.deferrals = self.deferrals.saturating_add(1);
    }

    /// Notes that an attempt has failed, and returns when the first one did. Whether it is counted depends on what
    /// follows.
    pub(super) fn note_failure(&mut self) -> DateTime<Utc> {
        self.deferrals = 0;
        *self.first_failed_at.get_or_insert_with(Utc::now)
    }
}
