//! Where in a stream reading begins: a plain value. Never reads anything.

use chrono::{DateTime, Utc};

/// Where reading a stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// With the oldest event that is kept.
    Beginning,
    /// With the next event to come.
    New,
    /// With this sequence of the stream.
    Sequence(u64),
    /// With the first event stored at or after this time.
    Time(DateTime<Utc>),
}
