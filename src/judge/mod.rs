//! What is wrong with a running system: figures in, findings out, the worst first. Never asks a server, and reads no
//! clock: the figures say when they were taken.
//!
//! ```no_run
//! use tidings::{Bus, Outbox, doctor::Doctor, judge::{Health, judge}};
//!
//! # async fn example(bus: Bus, outbox: Outbox<tidings::sqlx::Postgres>) {
//! let figures = Doctor::new(&bus).outbox(&outbox).look().await;
//! let verdict = judge(&figures);
//! for finding in &verdict.findings {
//!     println!("{} {}: {}; try: {}", finding.status, finding.id, finding.cause, finding.cure);
//! }
//! if verdict.status >= Health::Stuck {
//!     assert_eq!(verdict.exit, 2);
//! }
//! # }
//! ```

mod finding;
#[cfg(feature = "outbox")]
mod outbox;
mod preflight;
#[cfg(feature = "ops")]
pub(crate) mod process;
mod subscribers;
#[cfg(feature = "outbox")]
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::operations::doctor::{Figures, Unseen};
pub use crate::policy::{
    issue_kind::IssueKind,
    preflight::{CHECKS, Check, PreflightFigures, Severity, is_check},
};
pub use crate::preflight::PreflightRefusal;
pub use finding::{Component, Finding};
#[cfg(feature = "outbox")]
pub use outbox::{judge_outbox, stuck};
pub use subscribers::judge_subscribers;

/// The state of a component, or of the whole: one set of words for every place that tells it. A later one in this list
/// is worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Health {
    /// It works.
    Ok,
    /// There is nothing to do.
    Idle,
    /// Another instance is active.
    Standby,
    /// An operator has paused it.
    Paused,
    /// It sets itself up.
    Starting,
    /// It was told to stop, and finishes what is in flight.
    Draining,
    /// It works; an operator may want to know something.
    Notice,
    /// It could not be seen.
    Unknown,
    /// It works, and its configuration puts events at risk.
    Danger,
    /// A part of it does not work, or it has lost something.
    Degraded,
    /// Events wait, and none of them is done.
    Stuck,
    /// It does not work here, and says so.
    Refused,
}

/// What the figures mean.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Verdict {
    /// The worst status of the findings; [`Health::Unknown`] when something could not be seen and nothing worse is
    /// known, and [`Health::Ok`] when all is well.
    pub status: Health,
    /// When the figures were taken.
    pub at: DateTime<Utc>,
    /// The exit code of `tidings doctor`: 0 well or notices, 1 degraded or in danger, 2 stuck or refused, 3 something
    /// could not be seen and nothing worse is known.
    pub exit: u8,
    /// What is wrong, the worst first.
    pub findings: Vec<Finding>,
    /// What could not be seen.
    pub unseen: Vec<Unseen>,
    /// What is well.
    pub well: Well,
}

/// What is well, in figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Well {
    /// The outbox; `None` when it could not be read.
    pub outbox: Option<WellOutbox>,
    /// How many subscribers have no finding.
    pub subscribers: usize,
    /// How many subscribers there are.
    pub all_subscribers: usize,
    /// How many of their instances answer.
    pub instances: usize,
}

/// The figures of an outbox that was read.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WellOutbox {
    /// The owner of the lease, while it is valid.
    pub owner: Option<String>,
    /// The epoch of the lease.
    pub epoch: i64,
    /// Events that wait for the relay.
    pub backlog: u64,
    /// Parked events.
    pub parked: u64,
    /// Delayed events.
    pub delayed: u64,
    /// In how many seconds the next delayed event is due.
    pub next_due_s: Option<f64>,
}

/// Judges the figures of a [`Doctor`](crate::doctor::Doctor).
#[must_use]
pub fn judge(figures: &Figures) -> Verdict {
    let mut findings: Vec<Finding> = figures
        .unseen
        .iter()
        .filter(|unseen| is_refusal(unseen))
        .map(|unseen| finding::refused(figures, unseen))
        .collect();
    let mut unseen = figures.unseen.clone();
    unseen.retain(|unseen| !is_refusal(unseen));
    let mut well = Well::default();
    #[cfg(feature = "outbox")]
    if let Some(outbox) = &figures.outbox {
        let (status, relays) = (outbox.status.as_ref(), &outbox.relays);
        findings.extend(outbox::findings(&outbox.schema, status, relays, figures.at));
        well.outbox = outbox.status.as_ref().map(outbox::well);
    }
    if let Some(overview) = &figures.subscribers {
        let found = subscribers::findings(
            overview,
            &figures.dead_letters,
            &figures.parked_keys,
            figures.at,
        );
        well = Well {
            outbox: well.outbox,
            ..subscribers::well(overview, &found)
        };
        unseen.extend(subscribers::unseen(overview));
        findings.extend(found);
    }
    findings.extend(preflight::findings(figures, &findings));
    Verdict::of(figures.at, findings, unseen, well)
}

/// Tables of another version, and another NATS, were seen well enough.
fn is_refusal(unseen: &Unseen) -> bool {
    matches!(
        unseen.kind,
        IssueKind::SchemaNewer
            | IssueKind::SchemaOlder
            | IssueKind::NotMigrated
            | IssueKind::Elsewhere
    )
}

impl Verdict {
    fn of(at: DateTime<Utc>, mut findings: Vec<Finding>, unseen: Vec<Unseen>, well: Well) -> Self {
        findings.sort_by(|a, b| (b.status, &a.id).cmp(&(a.status, &b.id)));
        number(&mut findings);
        let worst = findings.first().map(|worst| worst.status);
        let unknown = (!unseen.is_empty()).then_some(Health::Unknown);
        let status = worst.max(unknown).unwrap_or(Health::Ok);
        Self {
            status,
            at,
            exit: status.exit(),
            findings,
            unseen,
            well,
        }
    }

    /// The same without the findings that this does not hold for; what could not be seen stays.
    #[must_use]
    pub fn retain(self, holds: impl Fn(&Finding) -> bool) -> Self {
        let mut findings = self.findings;
        findings.retain(holds);
        Self::of(self.at, findings, self.unseen, self.well)
    }

    /// The exit code when only what is at least this bad counts, and what could not be seen.
    #[must_use]
    pub fn exit_from(&self, least: Health) -> u8 {
        let worst = self.findings.first().map(|worst| worst.status);
        match worst.filter(|worst| *worst >= least) {
            Some(Health::Notice) => 1,
            Some(worst) => worst.exit(),
            None if self.unseen.is_empty() => 0,
            None => Health::Unknown.exit(),
        }
    }
}

/// Makes the ids of findings unique: a subscriber may have two replays that are stuck.
fn number(findings: &mut [Finding]) {
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    for finding in findings {
        let times = known.entry(finding.id.clone()).or_default();
        *times += 1;
        if *times > 1 {
            finding.id = format!("{}/{times}", finding.id);
        }
    }
}

impl Health {
    /// The word for JSON and scripts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Idle => "idle",
            Self::Standby => "standby",
            Self::Paused => "paused",
            Self::Starting => "starting",
            Self::Draining => "draining",
            Self::Notice => "notice",
            Self::Unknown => "unknown",
            Self::Danger => "danger",
            Self::Degraded => "degraded",
            Self::Stuck => "stuck",
            Self::Refused => "refused",
        }
    }

    /// Whether a part of a process in this state is ready for work, or would be if there were any.
    #[must_use]
    pub const fn is_ready(self) -> bool {
        match self {
            Self::Ok
            | Self::Idle
            | Self::Standby
            | Self::Paused
            | Self::Notice
            | Self::Danger
            | Self::Degraded => true,
            Self::Starting | Self::Draining | Self::Unknown | Self::Stuck | Self::Refused => false,
        }
    }

    /// The exit code of `tidings doctor` when this is the worst.
    #[must_use]
    pub const fn exit(self) -> u8 {
        match self {
            Self::Unknown => 3,
            Self::Danger | Self::Degraded => 1,
            Self::Stuck | Self::Refused => 2,
            _ => 0,
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
