//! The kinds of issues of a subscriber. Never finds one.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kind of an issue of a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SubscriberIssueKind {
    /// Events wait, and no instance answers.
    NoInstance,
    /// All instances of an ordered subscriber stand by, and none renews the lease.
    NoLease,
    /// A consumer is missing, and no instance answers.
    NoConsumer,
    /// A consumer was deleted while an instance runs.
    ConsumerDeleted,
    /// No stream takes its retries.
    RetriesGone,
    /// No stream takes its dead letters.
    DeadLettersGone,
    /// Its retries wait, and no consumer takes them.
    RetriesOrphaned,
    /// Retries are due, and their stream does not deliver them.
    RetriesLate,
    /// As many deliveries are ack pending as may be, and the server sends no more.
    AckPendingFull,
    /// A consumer begins behind the end of its stream.
    BeyondEnd,
    /// The circuit of an instance is open.
    CircuitOpen,
    /// A replay does not continue.
    ReplayStuck,
    /// An instance reports an issue of its own.
    Instance,
    /// The clocks of an instance and the server differ.
    Clock,
    /// The settings of a consumer differ from those that the instances want.
    Drift,
    /// The account lacks streams that every subscriber needs.
    Elsewhere,
    /// A kind that a later version of Tidings has added.
    #[serde(other)]
    Unknown,
}

impl SubscriberIssueKind {
    /// The word for JSON and scripts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoInstance => "no-instance",
            Self::NoLease => "no-lease",
            Self::NoConsumer => "no-consumer",
            Self::ConsumerDeleted => "consumer-deleted",
            Self::RetriesGone => "retries-gone",
            Self::DeadLettersGone => "dead-letters-gone",
            Self::RetriesOrphaned => "retries-orphaned",
            Self::RetriesLate => "retries-late",
            Self::AckPendingFull => "ack-pending-full",
            Self::BeyondEnd => "beyond-end",
            Self::CircuitOpen => "circuit-open",
            Self::ReplayStuck => "replay-stuck",
            Self::Instance => "instance",
            Self::Clock => "clock",
            Self::Drift => "drift",
            Self::Elsewhere => "elsewhere",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for SubscriberIssueKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
