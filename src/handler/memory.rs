//! What a handler that remembers its events says of one that is given up, so that there is not an effect beside the
//! dead letter. Never decides that an event is given up.

use chrono::{DateTime, Utc};
use futures::future::BoxFuture;

use crate::{context::Facts, failure::Failure, outcome::DeadLetter};

/// Remembers the events of a handler.
pub(crate) trait Remembers: Send + Sync {
    /// Remembers, before its letter is stored, that an event is given up. From then on the handler is not called for
    /// it, unless it is redriven.
    fn give_up<'a>(
        &'a self,
        facts: &'a Facts,
        letter: &'a DeadLetter,
    ) -> BoxFuture<'a, Result<GivenUp, Failure>>;

    /// Remembers that the letter is stored: another delivery need not look for it.
    fn buried<'a>(&'a self, facts: &'a Facts) -> BoxFuture<'a, Result<(), Failure>>;
}

/// What is remembered of an event that is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(any(feature = "postgres", feature = "sqlite")), allow(dead_code))] // the inbox says so
pub(crate) enum GivenUp {
    /// That it is, from now on: its letter is not stored.
    Now,
    /// That it was, then: its letter may be stored.
    Before(DateTime<Utc>),
    /// That it was handled, or that its letter is or will be stored by another delivery.
    Ended,
}
