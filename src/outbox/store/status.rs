//! The figures of the status as a database returns them. Never judges them.

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{ColumnIndex, Database, Decode, Row, Type};

use super::{
    Names,
    losses::{Loss, losses_from, open},
    unsigned,
};
use crate::{nats::NatsIdentity, policy::issue_kind::IssueKind};

/// Counts parked rows: all, those that wait, and those that are restored by themselves, with the oldest of the restored
/// and of the undecided ones. A row is restored when its unpark was requested, when it waits for a stream or subject,
/// or when it follows such a first row of its key. A row whose time is not valid has no age.
macro_rules! parked_figures {
    ($table:literal, $is_time:literal) => {
        concat!(
            "select count(*) as events, count(blocked_on) as waiting,
                   count(*) filter (where is_returning) as going_back,
                   min(created_at) filter (where is_returning and ",
            $is_time,
            ") as oldest,
                   min(created_at) filter (where not is_returning and ",
            $is_time,
            ") as oldest_undecided
            from (
                select log.created_at, log.blocked_on, ",
            $crate::outbox::store::parked::returns!("log"),
            "
                    or coalesce(",
            $crate::outbox::store::parked::returns!("leader"),
            ", false) as is_returning
                from ",
            $table,
            " as log
                left join (
                    select key, min(id) as id from ",
            $table,
            "
                    where octet_length(key) <= 256 and ",
            $crate::outbox::store::parked::holds_up!(""),
            " group by key
                ) as first on first.key = log.key and first.id < log.id
                left join ",
            $table,
            " as leader on leader.id = first.id
            ) as each"
        )
    };
}
pub(in crate::outbox) use parked_figures;

/// The state of an outbox.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(Default))]
#[non_exhaustive]
pub struct Status {
    /// Events that are committed and not yet confirmed by a checkpoint, including the parked ones that are restored by
    /// themselves: everything except what waits for an operator.
    pub backlog: u64,
    /// The age of the oldest event in the backlog, in seconds.
    pub oldest_unpublished_seconds: Option<f64>,
    /// The age of the oldest of them that is not parked.
    #[serde(skip)]
    pub(in crate::outbox) oldest_behind_seconds: Option<f64>,
    /// The lease of the relay.
    pub lease: LeaseStatus,
    /// The last batch in the ledger.
    pub last_batch: Option<LastBatch>,
    /// Parked events: those that NATS will never accept, and those that follow them.
    pub parked: u64,
    /// Delayed events.
    pub delayed: u64,
    /// When the next delayed event is due, in seconds from now; negative when it should have been moved already.
    pub next_due_seconds: Option<f64>,
    /// Why no relay runs on this database, and what to do: it is a copy, or a standby.
    pub refuses: Option<String>,
    /// The kind of the issue that this is.
    #[serde(skip)]
    pub(crate) refuses_as: IssueKind,
    /// How many parked events wait for a stream or a subject: they are restored by themselves, with those that follow
    /// them.
    pub waiting: u64,
    /// How many parked events are restored without a decision: those that wait, those whose unpark was requested, and
    /// those that follow them under their keys. They count in the backlog.
    pub returning: u64,
    /// How many parked events wait for an operator.
    pub undecided: u64,
    /// The age of the oldest of the undecided events, in seconds.
    pub oldest_undecided_seconds: Option<f64>,
    /// Whether a relay has the lease, events wait, and none was confirmed while the status was taken.
    pub stands_still: bool,
    /// The NATS that the outbox is relayed into, if that is known.
    pub nats: Option<NatsIdentity>,
    /// The issues of the relay, as it last recorded them.
    pub issues: Vec<Issue>,
    /// Slots of the log that should be free, and the transactions that hold them: these delay only the freeing. Also
    /// the table of delayed events, when some are due and open transactions have cancelled events in it: these events,
    /// and the later ones of their keys, are not moved until those transactions end.
    pub held_slots: Vec<HeldSlot>,
    /// Streams that have lost confirmed events, or may have, until an operator has settled it.
    pub losses: Vec<Loss>,
}

/// The statement of the status.
pub trait StatusStatements: Database<Connection: Send> {
    /// Returns the figures of `tidings outbox status`.
    fn status(
        connection: &mut Self::Connection,
        names: &Names,
    ) -> impl Future<Output = Result<Status, sqlx::Error>> + Send;
}

/// A transaction that holds a slot of the log, or another table of the outbox.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HeldSlot {
    /// The table.
    pub slot: String,
    /// The server process; `None` for a prepared transaction.
    pub pid: Option<i32>,
    /// The client's `application_name`.
    pub application: Option<String>,
    /// The client's state, such as `idle in transaction`; `None` without the right to see it.
    pub state: Option<String>,
    /// The age of the transaction, in seconds; `None` without the right to see it.
    pub age_seconds: Option<f64>,
    /// Its current or last statement, at most 200 characters; `None` without the right to see it.
    pub query: Option<String>,
}

impl HeldSlot {
    /// Whether the table is that of the delayed events.
    pub(crate) fn is_of_delayed(&self) -> bool {
        self.slot.ends_with("delayed")
    }
}

/// `tidings.relay by pid 7 psql, idle in transaction, for 10.5 s: lock table ...`
impl fmt::Display for HeldSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by ", self.slot)?;
        match self.pid {
            Some(pid) => write!(f, "pid {pid}")?,
            None => f.write_str("a prepared transaction")?,
        }
        let application = self.application.as_deref().unwrap_or_default();
        if !application.is_empty() {
            write!(f, " {application}")?;
        }
        if let Some(state) = &self.state {
            write!(f, ", {state}")?;
        }
        if let Some(age) = self.age_seconds {
            write!(f, ", for {age:.1} s")?;
        }
        match self.query.as_deref() {
            None | Some("") => Ok(()),
            Some(query) => write!(f, ": {query}"),
        }
    }
}

/// An issue: something that hinders the relay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Issue {
    /// What it concerns: `relay`, `stream EVENTS` or `subject user.created`.
    pub place: String,
    /// The kind.
    #[serde(default)]
    pub kind: IssueKind,
    /// When it began.
    pub since: DateTime<Utc>,
    /// What is wrong.
    pub cause: String,
    /// What to do about it.
    pub cure: String,
}

/// An issue as the database stores it: a member of an object, under the name of its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::outbox) struct StoredIssue {
    /// An entry of an earlier version has none.
    #[serde(default)]
    pub(in crate::outbox) kind: IssueKind,
    pub(in crate::outbox) since: DateTime<Utc>,
    pub(in crate::outbox) cause: String,
    pub(in crate::outbox) cure: String,
}

impl StoredIssue {
    pub(in crate::outbox) fn begins(kind: IssueKind, cause: &str, cure: &str) -> Self {
        Self {
            kind,
            since: Utc::now(),
            cause: cause.to_owned(),
            cure: cure.to_owned(),
        }
    }

    pub(in crate::outbox) fn at(self, place: String) -> Issue {
        Issue {
            place,
            kind: self.kind,
            since: self.since,
            cause: self.cause,
            cure: self.cure,
        }
    }
}

pub(in crate::outbox) fn stored_issues(
    text: &str,
) -> Result<BTreeMap<String, StoredIssue>, sqlx::Error> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(error.into()))
}

pub(in crate::outbox) fn issues_from(text: &str) -> Result<Vec<Issue>, sqlx::Error> {
    let stored = stored_issues(text)?.into_iter();
    Ok(stored.map(|(place, issue)| issue.at(place)).collect())
}

/// The lease of the relay.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(Default))]
#[non_exhaustive]
pub struct LeaseStatus {
    /// The owner; `None` before the first relay, and after a clean stop.
    pub owner: Option<String>,
    /// How often the lease was claimed; a claim follows each fault.
    pub epoch: i64,
    /// How long the lease lasts without renewal, in seconds; negative when it has expired.
    pub remaining_seconds: f64,
    /// How long the lease lasts from each renewal, in seconds: within that time a standby replaces an owner that died.
    /// 0 while the lease has no owner.
    pub lasts_seconds: f64,
}

/// A confirmed batch.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LastBatch {
    /// When it was confirmed.
    pub at: DateTime<Utc>,
    /// The number of events.
    pub events: u64,
    /// The stream.
    pub stream: String,
    /// The sequence of its last event.
    pub last_sequence: u64,
}

impl Status {
    /// Reads the figures, which both databases return in one order; `at` is when the last batch was confirmed.
    pub(in crate::outbox) fn read<'r, R>(
        row: &'r R,
        at: Option<DateTime<Utc>>,
    ) -> Result<Self, sqlx::Error>
    where
        R: Row,
        usize: ColumnIndex<R>,
        i64: Decode<'r, R::Database> + Type<R::Database>,
        f64: Decode<'r, R::Database> + Type<R::Database>,
        &'r str: Decode<'r, R::Database> + Type<R::Database>,
        String: Decode<'r, R::Database> + Type<R::Database>,
    {
        let last_batch = match at {
            None => None,
            Some(at) => Some(LastBatch {
                at,
                events: unsigned(row.try_get(7)?),
                stream: row.try_get(8)?,
                last_sequence: unsigned(row.try_get(9)?),
            }),
        };
        let (parked, returning) = (unsigned(row.try_get(5)?), unsigned(row.try_get(18)?));
        Ok(Self {
            backlog: unsigned(row.try_get(3)?),
            oldest_unpublished_seconds: row.try_get(4)?,
            oldest_behind_seconds: row.try_get(16)?,
            lease: LeaseStatus {
                owner: row.try_get(0)?,
                epoch: row.try_get(1)?,
                remaining_seconds: row.try_get(2)?,
                lasts_seconds: row.try_get(12)?,
            },
            last_batch,
            parked,
            delayed: unsigned(row.try_get(10)?),
            next_due_seconds: row.try_get(11)?,
            refuses: None,
            refuses_as: IssueKind::Unknown,
            held_slots: Vec::new(),
            waiting: unsigned(row.try_get(13)?),
            returning,
            undecided: parked.saturating_sub(returning),
            oldest_undecided_seconds: row.try_get(17)?,
            stands_still: false,
            nats: None,
            issues: issues_from(row.try_get(14)?)?,
            losses: open(&losses_from(row.try_get(15)?)?),
        })
    }
}
