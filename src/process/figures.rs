//! The figures of a process at one moment. Plain values; ages are by a monotonic clock.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};

use crate::{
    instance::{Activity, FailingKey},
    policy::{breaker::CircuitState, issue_kind::IssueKind, preflight::Severity},
    preflight::PreflightRefusal,
};

/// From this age on, what waited at the server is not known any more.
const STALE: Duration = Duration::from_secs(60);

/// Everything that is known of a process.
#[derive(Debug, Clone)]
pub(crate) struct ProcessFigures {
    pub(crate) at: DateTime<Utc>,
    pub(crate) phase: Phase,
    pub(crate) runtime: RuntimeFigures,
    /// The required tasks that have ended.
    pub(crate) ended_tasks: Vec<String>,
    /// What the checks at the start refuse.
    pub(crate) refusals: Vec<PreflightRefusal>,
    /// The connections to NATS of the worker, and of the work that runs with it.
    pub(crate) connections: Vec<ConnectionFigures>,
    /// How many findings each check of the start has.
    pub(crate) concerns: BTreeMap<(IssueKind, Severity), usize>,
    /// Without progress for this long, a part that has work is stuck; `None` while no endpoints say so.
    pub(crate) stuck_after: Option<Duration>,
    pub(crate) relays: Vec<RelayFigures>,
    pub(crate) subscribers: Vec<SubscriberFigures>,
}

/// The phase of a worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It is not set up yet.
    #[default]
    Starting,
    Running,
    /// It was told to stop.
    Draining,
}

/// A connection to NATS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionFigures {
    pub(crate) is_connected: bool,
    /// How often it was lost.
    pub(crate) lost: u64,
}

/// The runtime that the worker runs on.
#[derive(Debug, Clone, Default)]
pub(crate) struct RuntimeFigures {
    /// For how long it has run no task.
    pub(crate) silent: Duration,
    /// The handlers that were entered and have not returned; empty while the runtime runs tasks.
    pub(crate) handlers: String,
}

/// A relay.
#[derive(Debug, Clone)]
pub(crate) struct RelayFigures {
    /// The schema of the outbox.
    pub(crate) outbox: String,
    /// `postgres` or `sqlite`.
    pub(crate) database: &'static str,
    pub(crate) owner: String,
    /// It is starting while it cannot take the lease, or was interrupted.
    pub(crate) activity: Activity,
    /// The epoch of its lease, while it has the lease.
    pub(crate) epoch: Option<i64>,
    pub(crate) lease: Duration,
    /// Whether it has ever stood by, or read the log.
    pub(crate) is_set_up: bool,
    /// Whether it reads the log: it has resumed, and was not interrupted since.
    pub(crate) is_relaying: bool,
    /// Since when the database has answered no claim of the lease and no renewal.
    pub(crate) unanswered: Duration,
    /// How many rows were read that are neither confirmed nor parked.
    pub(crate) open_rows: usize,
    /// Since when no row was confirmed or parked, and the log was not found empty either.
    pub(crate) unmoved: Duration,
    /// For how long the page has been read that is being read.
    pub(crate) fetching: Option<Duration>,
    /// For how long delayed events have been due, while none was moved.
    pub(crate) delayed_overdue: Option<Duration>,
    /// Whether parked rows wait for a stream or a subject.
    pub(crate) has_waiting: bool,
    /// Rows that were confirmed since the relay started.
    pub(crate) confirmed: u64,
    /// When a confirmation was last written to the database.
    pub(crate) confirmed_at: Option<DateTime<Utc>>,
    pub(crate) issues: Vec<RelayIssue>,
    /// Losses of streams that are neither repaired nor acknowledged, while it has the lease. They hold no event up.
    pub(crate) losses: Vec<RelayIssue>,
}

/// An issue of a relay.
#[derive(Debug, Clone)]
pub(crate) struct RelayIssue {
    /// `relay`, or a stream or a subject, such as `stream EVENTS`.
    pub(crate) place: String,
    pub(crate) kind: IssueKind,
    pub(crate) since: DateTime<Utc>,
    pub(crate) cause: String,
    pub(crate) cure: String,
}

/// A subscriber.
#[derive(Debug, Clone)]
pub(crate) struct SubscriberFigures {
    pub(crate) name: String,
    pub(crate) ordered: bool,
    pub(crate) concurrency: usize,
    /// How long an attempt may take.
    pub(crate) timeout: Duration,
    /// When it is stuck with all slots taken, if its code says so.
    pub(crate) stuck_after: Option<Duration>,
    pub(crate) activity: Activity,
    /// Whether it has ever stood by, or been active.
    pub(crate) is_set_up: bool,
    /// For how long it has been starting, though it was set up before.
    pub(crate) interrupted: Option<Duration>,
    /// Whether a consumer of it was paused at the last look.
    pub(crate) is_paused: bool,
    /// The last looks at its consumers: what waits at the server. `None` before the first look.
    pub(crate) server: Option<ServerFigures>,
    /// How many events are being handled.
    pub(crate) running: usize,
    /// Whether all slots are taken.
    pub(crate) is_full: bool,
    /// How many events wait in the process for their next attempt, which is not due.
    pub(crate) resting: usize,
    /// How many events are in flight: they run, rest, or wait for a slot or for the first event of their key.
    pub(crate) in_flight: usize,
    pub(crate) in_flight_bytes: usize,
    /// For how long due events have waited, while no attempt was running and none has ended.
    pub(crate) idle_with_work: Option<Duration>,
    /// For how long the attempt has run that runs for the longest.
    pub(crate) oldest_attempt: Option<Duration>,
    /// The name and the id of its event.
    pub(crate) oldest_event: Option<String>,
    /// Since when no attempt has ended; `None` when none ever has.
    pub(crate) last_ended: Option<Duration>,
    pub(crate) circuit: CircuitState,
    /// For how long the circuit has not been closed.
    pub(crate) circuit_open: Option<Duration>,
    /// The error of the last attempt that opened it, or kept it open.
    pub(crate) circuit_error: Option<String>,
    /// How long until the next probe may begin.
    pub(crate) probe_in: Option<Duration>,
    /// Why answers are not confirmed, and for how long none was.
    pub(crate) unconfirmed: Option<(String, Duration)>,
    /// What holds it up: pulls that are interrupted, a missing permission, a stream or a bucket that is gone.
    pub(crate) hindrance: Option<(String, Duration)>,
    /// Why its lease can be neither read nor taken, and for how long; only of an ordered subscriber on standby.
    pub(crate) leaseless: Option<(String, Duration)>,
    /// What an operator should know, and what does not hold up everything.
    pub(crate) notes: Vec<(IssueKind, String)>,
    /// The keys that wait behind an event that fails; a few of them.
    pub(crate) failing: Vec<FailingKey>,
    pub(crate) handled: u64,
    pub(crate) failed: u64,
    pub(crate) dead_lettered: u64,
}

/// What waits at the server for a subscriber, in all of its streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ServerFigures {
    /// Messages that were never delivered.
    pub(crate) pending: u64,
    /// Deliveries that are not acknowledged, at any instance.
    pub(crate) ack_pending: u64,
    /// The age of the oldest pending event, at most; zero when nothing is pending.
    pub(crate) oldest: Duration,
    /// The age of the oldest of these looks.
    pub(crate) age: Duration,
}

impl ServerFigures {
    /// Whether the looks are recent: none is made while NATS does not answer.
    pub(crate) fn are_recent(&self) -> bool {
        self.age < STALE
    }
}
