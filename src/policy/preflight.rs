//! Judges how servers, outbox and subscribers are configured, before anything goes wrong: figures in, concerns out.
//! Never gathers a figure.

mod clock;
mod outbox;
mod streams;
mod subscribers;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt, time::Duration};

use serde::Serialize;

use super::issue_kind::IssueKind;
pub(crate) use clock::offset;

/// How bad a finding of the preflight is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Severity {
    /// An operator may want to know it: only `tidings doctor preflight` shows it.
    Note,
    /// It works, and events are at risk: a warning at the start, and a finding of the doctor.
    Danger,
    /// It cannot work, or it loses events: a relay or worker ends, unless it is forced.
    Refuse,
}

/// One check of the preflight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Check {
    /// The kind of what it finds, which is also the name by which it is allowed.
    pub kind: IssueKind,
    /// How bad that is, at worst.
    pub severity: Severity,
    /// What it looks at.
    pub looks_at: &'static str,
}

const fn check(kind: IssueKind, severity: Severity, looks_at: &'static str) -> Check {
    Check {
        kind,
        severity,
        looks_at,
    }
}

/// All checks of the preflight.
///
/// ```
/// use tidings::judge::{CHECKS, IssueKind, Severity};
///
/// let one_copy = CHECKS.iter().find(|check| check.kind == IssueKind::OneCopy);
/// assert_eq!(one_copy.map(|check| check.severity), Some(Severity::Danger));
/// ```
pub const CHECKS: &[Check] = &[
    check(
        IssueKind::RetentionPolicy,
        Severity::Refuse,
        "`retention` of a stream of events is `interest` or `workqueue`; refused where an outbox feeds the stream, else a \
         danger",
    ),
    check(
        IssueKind::DeniedDatabase,
        Severity::Refuse,
        "the rights of the relay's role on the tables and the sequence of the outbox; refused for those that are \
         needed at once, else a danger. The doctor looks only where its own role may write",
    ),
    check(
        IssueKind::DatabaseReadOnly,
        Severity::Refuse,
        "`default_transaction_read_only` of the server or the database; a relay waits until it is over",
    ),
    check(
        IssueKind::Window,
        Severity::Refuse,
        "`duplicate_window` of a stream of events: refused below 10 s, where a relay starts with a warning; a danger \
         below the lease of the relay and 10 s, or below the time in which two lost connections are noticed (six times \
         the ping interval: 60 s)",
    ),
    check(
        IssueKind::OneCopy,
        Severity::Danger,
        "`replicas` is 1 in a cluster: of the streams of events, `DEAD_LETTERS`, `RETRIES` and `KV_TIDINGS`",
    ),
    check(
        IssueKind::DiscardOld,
        Severity::Danger,
        "`discard` of a stream of events is `old`",
    ),
    check(
        IssueKind::NoLimit,
        Severity::Danger,
        "a stream of events or dead letters has no `max_bytes`, and the account has no limit of storage; a note when \
         NATS is reached over loopback. A start looks only where the user may ask for the limits of the account",
    ),
    check(
        IssueKind::KeepsLess,
        Severity::Danger,
        "`max_age` of a stream that an outbox feeds is below `relay.retention`; `max_age` of `DEAD_LETTERS` is below 7 \
         days",
    ),
    check(
        IssueKind::RetriesLimited,
        Severity::Danger,
        "`max_age`, `max_bytes` or `max_msgs` of `RETRIES`",
    ),
    check(
        IssueKind::Clock,
        Severity::Danger,
        "the clock of this process and those of the nats-server and the database differ by more than 1 s (a note) or \
         5 s, half the round trip taken off",
    ),
    check(
        IssueKind::Superuser,
        Severity::Danger,
        "the role in the database is a superuser; a note when the database is on this host",
    ),
    check(
        IssueKind::Lease,
        Severity::Danger,
        "`relay.lease` is below 3 s or above 60 s, or `relay.stall_timeout` is above ten leases",
    ),
    check(
        IssueKind::Pool,
        Severity::Danger,
        "the pool of transactional handlers has fewer connections than they use at once and two more, or waits for a \
         connection for longer than the 30 s after which a delivery is repeated",
    ),
    check(
        IssueKind::Unsynced,
        Severity::Note,
        "a stream has one copy: NATS does not tell a client its `sync_interval`, which is 2 min by default",
    ),
    check(
        IssueKind::Drain,
        Severity::Note,
        "the timeout of an attempt is above the shutdown timeout of the worker; the shutdown timeout is not below the \
         grace period of the process, when the worker was told it (`Worker::grace_period`)",
    ),
    check(
        IssueKind::Timeout,
        Severity::Note,
        "the timeout of an attempt is above 10 min",
    ),
    check(
        IssueKind::MaxPayload,
        Severity::Note,
        "`max_payload` of the nats-server is below the one that producers check their events against",
    ),
    check(
        IssueKind::TwoOutboxes,
        Severity::Note,
        "another outbox in the same database has a relay; only the doctor looks",
    ),
];

/// What the checks look at. `judge::judge` reads it.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PreflightFigures {
    pub(crate) nats: Option<NatsFigures>,
    pub(crate) streams: Vec<StreamFigures>,
    pub(crate) database: Option<DatabaseFigures>,
    pub(crate) relay: Option<RelaySetup>,
    pub(crate) subscribers: Vec<SubscriberSetup>,
}

/// The connection to NATS.
#[derive(Debug, Clone, Default)]
pub(crate) struct NatsFigures {
    /// All its servers are on this host.
    pub(crate) is_local: bool,
    pub(crate) ping_interval: Duration,
    /// The limit of storage of the account in bytes, which is negative without one; `None` when it is not known.
    pub(crate) storage: Option<i64>,
    /// By how many seconds its clock is ahead of the one of this process.
    pub(crate) ahead_s: Option<f64>,
    pub(crate) max_payload: usize,
}

/// What a stream holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Holds {
    #[default]
    Events,
    DeadLetters,
    Retries,
    Bucket,
}

/// The settings of a stream. A limit that is not set is 0 or negative.
#[derive(Debug, Clone, Default)]
pub(crate) struct StreamFigures {
    pub(crate) name: String,
    pub(crate) holds: Holds,
    /// The relay of an outbox writes into it.
    pub(crate) is_fed: bool,
    /// The cluster that it is in.
    pub(crate) cluster: Option<String>,
    pub(crate) replicas: i64,
    pub(crate) retention: String,
    pub(crate) discard: String,
    pub(crate) max_age: Duration,
    pub(crate) max_bytes: i64,
    pub(crate) duplicate_window: Duration,
    /// The limits that drop waiting retries, each in a sentence, with its cure in the next one.
    pub(crate) drops: Vec<String>,
}

/// What a role sees of the database.
#[derive(Debug, Clone, Default)]
#[cfg_attr(not(feature = "outbox"), allow(unreachable_pub))] // the trait of a store names it
pub struct DatabaseFigures {
    pub(crate) schema: String,
    /// It is on this host.
    pub(crate) is_local: bool,
    pub(crate) role: String,
    pub(crate) is_superuser: bool,
    /// Transactions are read-only by default, for each role.
    pub(crate) is_read_only: bool,
    pub(crate) missing: Vec<MissingRight>,
    /// The role may claim the lease of the relay.
    pub(crate) may_claim: bool,
    /// By how many seconds its clock is ahead of the one of this process.
    pub(crate) ahead_s: Option<f64>,
    /// What producers check their events against.
    pub(crate) max_payload: Option<usize>,
    /// Other outboxes in the same database, and the owners of their leases.
    pub(crate) others: Vec<(String, String)>,
}

/// A right that a relay needs and its role lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MissingRight {
    pub(crate) relation: String,
    pub(crate) privilege: String,
    /// Without it the relay cannot begin.
    pub(crate) is_needed_at_once: bool,
}

/// The settings of a relay.
#[derive(Debug, Clone)]
pub(crate) struct RelaySetup {
    pub(crate) schema: String,
    pub(crate) lease: Duration,
    pub(crate) stall_timeout: Duration,
    pub(crate) retention: Duration,
}

/// The settings of a subscriber.
#[derive(Debug, Clone, Default)]
pub(crate) struct SubscriberSetup {
    pub(crate) name: String,
    pub(crate) timeout: Duration,
    pub(crate) concurrency: usize,
    /// The shutdown timeout of its worker, where it is known.
    pub(crate) shutdown_timeout: Option<Duration>,
    /// After which time its process is killed that was told to stop, where it was told so.
    pub(crate) grace: Option<Duration>,
    /// The pool of its transactional handlers.
    pub(crate) pool: Option<PoolFigures>,
}

/// The settings of a pool of connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolFigures {
    pub(crate) connections: usize,
    pub(crate) acquire_timeout: Duration,
}

/// What a concern is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum About {
    Account,
    Stream(String),
    Outbox(String),
    Relay(String),
    Subscriber(String),
}

/// Something in the configuration that puts events at risk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Concern {
    pub(crate) kind: IssueKind,
    pub(crate) severity: Severity,
    pub(crate) about: About,
    pub(crate) cause: String,
    pub(crate) cure: String,
    pub(crate) command: Option<String>,
}

/// What of the preflight is silenced, and whether a refusal ends the start.
#[derive(Debug, Clone, Default)]
pub(crate) struct Allowance {
    pub(crate) kinds: BTreeSet<IssueKind>,
    pub(crate) is_forced: bool,
}

impl Concern {
    fn new(
        kind: IssueKind,
        severity: Severity,
        about: About,
        cause: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            severity,
            about,
            cause: cause.into(),
            cure: cure.into(),
            command: None,
        }
    }

    fn command(mut self, command: impl Into<String>) -> Self {
        self.command = Some(command.into());
        self
    }
}

/// What is wrong, the worst first.
pub(crate) fn concerns(figures: &PreflightFigures, allowed: &BTreeSet<IssueKind>) -> Vec<Concern> {
    let mut found = streams::concerns(figures);
    found.extend(outbox::concerns(figures));
    found.extend(subscribers::concerns(&figures.subscribers));
    if let Some(ahead) = figures.nats.as_ref().and_then(|nats| nats.ahead_s) {
        found.extend(clock::concern(About::Account, "the nats-server", ahead));
    }
    found.retain(|concern| !allowed.contains(&concern.kind));
    found.sort_by_key(|concern| std::cmp::Reverse(concern.severity));
    found
}

/// Whether a kind is one that the preflight finds.
#[must_use]
pub fn is_check(kind: IssueKind) -> bool {
    CHECKS.iter().any(|check| check.kind == kind)
}

impl Severity {
    /// The word for documents and scripts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Danger => "danger",
            Self::Refuse => "refuse",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// `stream EVENTS`, as it stands in front of a cause.
impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account => f.write_str("NATS"),
            Self::Stream(stream) => write!(f, "stream {stream}"),
            Self::Outbox(schema) => write!(f, "outbox {schema}"),
            Self::Relay(schema) => write!(f, "relay {schema}"),
            Self::Subscriber(name) => write!(f, "subscriber {name}"),
        }
    }
}
