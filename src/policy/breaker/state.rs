//! The states of a circuit as they are shown. Never changes one.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of the circuit of a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CircuitState {
    /// Events are handled.
    Closed,
    /// Nothing is pulled until the pause is over.
    Open,
    /// One event at a time is attempted, as a probe.
    HalfOpen,
    /// A state that is not known, or that a later version of Tidings has added.
    #[serde(other)]
    Unknown,
}

impl CircuitState {
    /// The word for status and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
            Self::Unknown => "unknown",
        }
    }

    /// Whether it limits what is pulled.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Open | Self::HalfOpen)
    }
}

impl fmt::Display for CircuitState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
