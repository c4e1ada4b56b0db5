//! The inbox of a handler, as far as dead-lettered events are concerned, so that an event does not get both an effect
//! and a dead letter. Never decides that an event is dead-lettered.

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;

use super::context::Facts;
use crate::policy::{failure::Failure, outcome::DeadLetter};

/// Remembers the events of a handler.
pub(crate) trait Remembers: Send + Sync {
    /// Records that an event is dead-lettered, before its dead letter is stored. From then on the handler is not called
    /// for it, unless it is redriven. An existing record of the event is kept, unless it equals `lost`, whose dead
    /// letter is lost, or the event was redriven since.
    fn record_dead_letter<'a>(
        &'a self,
        facts: &'a Facts,
        letter: &'a DeadLetter,
        lost: Option<&'a Noted>,
    ) -> BoxFuture<'a, Result<DeadLettered, Failure>>;

    /// Records that the dead letter is stored, and its sequence; 0 when the sequence is not known.
    fn dead_letter_stored<'a>(
        &'a self,
        facts: &'a Facts,
        letter: u64,
    ) -> BoxFuture<'a, Result<(), Failure>>;
}

/// What is recorded about an event that is to be dead-lettered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "outbox"), allow(dead_code))] // constructed by the inbox only
pub(crate) enum DeadLettered {
    /// It is dead-lettered from now on: its dead letter is not stored yet.
    Now,
    /// It was dead-lettered before.
    Before(Box<Noted>),
    /// It was handled.
    Ended,
}

/// The record of a dead-lettered event: enough to find its dead letter, or to write it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Noted {
    /// Where the dead-lettered delivery was first stored.
    pub(crate) stream: String,
    pub(crate) sequence: u64,
    pub(crate) stored_at: DateTime<Utc>,
    pub(crate) redrives: u32,
    /// Whether that is the current delivery.
    pub(crate) is_this: bool,
    /// When it was dead-lettered, by the worker's clock.
    pub(crate) at: DateTime<Utc>,
    /// The reason.
    pub(crate) why: DeadLetter,
    /// The sequence of the dead letter, once it is stored; 0 when it is not known.
    pub(crate) letter: Option<u64>,
    /// The record itself, as stored.
    pub(crate) text: String,
}

/// Where the dead letter of an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    /// It exists, was removed on purpose, or another delivery stores it; with its sequence, where that is new.
    Known(Option<u64>),
    /// No stream holds it, or the event in its place: it has to be stored.
    Lost,
}
