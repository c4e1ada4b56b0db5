//! What a handler that remembers its events says of one that is given up, so that there is not an effect beside the
//! dead letter. Never decides that an event is given up.

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;

use crate::{context::Facts, failure::Failure, outcome::DeadLetter};

/// Remembers the events of a handler.
pub(crate) trait Remembers: Send + Sync {
    /// Remembers, before its letter is stored, that an event is given up. From then on the handler is not called for
    /// it, unless it is redriven. What is noted of it already stays, unless it is what is known to be lost.
    fn give_up<'a>(
        &'a self,
        facts: &'a Facts,
        letter: &'a DeadLetter,
        lost: Option<&'a Noted>,
    ) -> BoxFuture<'a, Result<GivenUp, Failure>>;

    /// Remembers that the letter is stored, and under which sequence; 0 when that is not known.
    fn buried<'a>(&'a self, facts: &'a Facts, letter: u64) -> BoxFuture<'a, Result<(), Failure>>;
}

/// What is remembered of an event that is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(feature = "outbox"), allow(dead_code))] // the inbox says so
pub(crate) enum GivenUp {
    /// That it is, from now on: its letter is not stored.
    Now,
    /// That it was before.
    Before(Box<Noted>),
    /// That it was handled.
    Ended,
}

/// What is noted of an event that was given up: enough to find its letter, or to write it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Noted {
    /// Where the delivery was stored first that was given up.
    pub(crate) stream: String,
    pub(crate) sequence: u64,
    pub(crate) stored_at: DateTime<Utc>,
    pub(crate) redrives: u32,
    /// Whether that is the delivery that asks.
    pub(crate) is_this: bool,
    /// When it was given up, by the worker's clock.
    pub(crate) at: DateTime<Utc>,
    /// Why.
    pub(crate) why: DeadLetter,
    /// The letter's sequence, once it is stored; 0 when it is not known.
    pub(crate) letter: Option<u64>,
    /// The note itself.
    pub(crate) text: String,
}

/// Where the letter is of an event that was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    /// It is there, was taken out on purpose, or another delivery stores it; with its sequence, where that is new.
    Known(Option<u64>),
    /// No stream has it, or the event in its place: it has to be stored.
    Lost,
}
