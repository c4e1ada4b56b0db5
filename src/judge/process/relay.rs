//! Judges a relay by the figures of its process.

use std::time::Duration;

use serde_json::Value;

use super::{Component, Finding, Health, IssueKind, Judging, Part, Unseen};
use crate::{
    instance::Activity,
    process::figures::{RelayFigures, RelayIssue},
};

/// The place of an issue that concerns all of a relay.
const RELAY: &str = "relay";
/// The cure of an interruption that has just begun.
const GOES_ON: &str = "none is needed: it goes on by itself";

pub(super) fn part(relay: &RelayFigures, judging: &Judging<'_>) -> Part {
    let of = (Component::Relay, &*relay.outbox);
    let (status, finding) = judging
        .of_process(of)
        .or_else(|| refused(relay, judging))
        .or_else(|| starting(relay, judging))
        .or_else(|| stuck(relay, judging))
        .or_else(|| standby(relay))
        .or_else(|| degraded(relay, judging))
        .unwrap_or(match relay.open_rows {
            0 => (Health::Idle, None),
            _ => (Health::Ok, None),
        });
    Part::new(of, status, finding).progress(progress(relay))
}

/// The log of an interrupted relay is not read: whether events wait is not known.
pub(super) fn unseen(relay: &RelayFigures) -> Option<Unseen> {
    let is_seen = relay.is_relaying || relay.activity == Activity::Standby;
    (!is_seen).then(|| {
        let what = format!("the log of the outbox {}", relay.outbox);
        match worst(relay) {
            Some(issue) => Unseen::new(what, issue.kind, &*issue.cause, &*issue.cure),
            None => Unseen::new(
                what,
                IssueKind::RelayInterrupted,
                "its relay has not resumed yet",
                GOES_ON,
            ),
        }
    })
}

type Judged = Option<(Health, Option<Finding>)>;

/// It may not work here, and says so.
fn refused(relay: &RelayFigures, judging: &Judging<'_>) -> Judged {
    if relay.is_relaying {
        return None;
    }
    let refuses = |issue: &&RelayIssue| issue.place == RELAY && is_refusal(issue.kind);
    let issue = relay.issues.iter().find(refuses)?;
    let finding = told(relay, issue, Health::Refused, judging);
    Some((Health::Refused, Some(finding)))
}

fn is_refusal(kind: IssueKind) -> bool {
    matches!(
        kind,
        IssueKind::DatabaseStandby
            | IssueKind::DatabaseForeign
            | IssueKind::DatabaseReadOnly
            | IssueKind::DeniedDatabase
            | IssueKind::NotMigrated
            | IssueKind::SchemaNewer
            | IssueKind::SchemaOlder
            | IssueKind::Elsewhere
    )
}

/// It has neither stood by nor read the log yet.
fn starting(relay: &RelayFigures, judging: &Judging<'_>) -> Judged {
    if relay.is_set_up {
        return None;
    }
    let issue = worst(relay);
    let finding = issue.map(|issue| told(relay, issue, Health::Starting, judging));
    Some((Health::Starting, finding))
}

/// It has work, or cannot see whether it has, and completes none.
fn stuck(relay: &RelayFigures, judging: &Judging<'_>) -> Judged {
    let stuck_after = judging.stuck_after;
    let of = (Component::Relay, &*relay.outbox);
    let long = |age: Option<Duration>| age.filter(|age| *age >= stuck_after);
    let may_lapse = relay.lease + relay.lease / 4 + Duration::from_secs(1);
    let unanswered = match relay.activity {
        Activity::Standby => may_lapse,
        _ => stuck_after,
    };
    let is_standby = relay.activity == Activity::Standby;
    let (age, kind, cause, cure) = if relay.unanswered > unanswered {
        (
            relay.unanswered,
            IssueKind::DatabaseSilent,
            "the database has answered no claim of the lease".to_owned(),
            "check whether the database server is frozen, overloaded or cut off",
        )
    } else if is_standby {
        return None;
    } else if !relay.is_relaying && relay.unmoved >= stuck_after {
        (
            relay.unmoved,
            IssueKind::RelayInterrupted,
            "the relay does not read the log".to_owned(),
            "see the log of the process",
        )
    } else if relay.is_relaying && relay.open_rows > 0 && relay.unmoved >= stuck_after {
        let rows = relay.open_rows;
        (
            relay.unmoved,
            IssueKind::StandsStill,
            format!("{rows} events were read, and none was confirmed or parked"),
            "check whether the nats-server of their stream is frozen, overloaded or cut off",
        )
    } else if let Some(age) = long(relay.fetching) {
        (
            age,
            IssueKind::DatabaseSilent,
            "the database does not answer with the next events".to_owned(),
            "check what the database waits for, in pg_stat_activity",
        )
    } else if let Some(age) = long(relay.delayed_overdue) {
        (
            age,
            IssueKind::DelayedLate,
            "delayed events are due, and none is moved into the log".to_owned(),
            "tidings outbox delayed, and tidings outbox status, which names a transaction that holds them",
        )
    } else {
        return None;
    };
    let issue = worst(relay).filter(|_| kind != IssueKind::DelayedLate);
    let finding = match issue {
        Some(issue) => {
            let finding = told(relay, issue, Health::Stuck, judging);
            finding.since(Some(judging.since(age).min(issue.since)), judging.at)
        }
        None => judging.stuck(of, kind, age, cause).cure(cure),
    };
    Some((Health::Stuck, Some(finding)))
}

fn standby(relay: &RelayFigures) -> Judged {
    (relay.activity == Activity::Standby).then_some((Health::Standby, None))
}

/// A part of the events does not move, or all of them have stopped a moment ago.
fn degraded(relay: &RelayFigures, judging: &Judging<'_>) -> Judged {
    if let Some(issue) = worst(relay).or(relay.losses.first()) {
        let finding = told(relay, issue, Health::Degraded, judging);
        return Some((Health::Degraded, Some(finding)));
    }
    if relay.is_relaying {
        return None;
    }
    let of = (Component::Relay, &*relay.outbox);
    let kind = IssueKind::RelayInterrupted;
    let cause = "the relay resumes, and does not read the log yet";
    let finding = judging.finding(of, kind, Health::Degraded, cause);
    let finding = finding.cure(GOES_ON);
    Some((Health::Degraded, Some(finding)))
}

/// The issue that explains the most: that of the relay as a whole, else the oldest.
fn worst(relay: &RelayFigures) -> Option<&RelayIssue> {
    let issues = relay.issues.iter();
    issues.min_by_key(|issue| (issue.place != RELAY, issue.since))
}

fn told(
    relay: &RelayFigures,
    issue: &RelayIssue,
    status: Health,
    judging: &Judging<'_>,
) -> Finding {
    let of = (Component::Relay, &*relay.outbox);
    let finding = judging
        .finding(of, issue.kind, status, &*issue.cause)
        .since(Some(issue.since), judging.at)
        .cure(&*issue.cure);
    match issue.place.split_once(' ') {
        Some(("stream" | "subject", place)) => finding.at(place),
        _ => finding,
    }
}

fn progress(relay: &RelayFigures) -> Vec<(&'static str, Value)> {
    let seconds = |age: Duration| Value::from(age.as_secs());
    vec![
        ("activity", relay.activity.as_str().into()),
        ("epoch", relay.epoch.into()),
        ("owner", relay.owner.clone().into()),
        ("database", relay.database.into()),
        ("open_rows", relay.open_rows.into()),
        ("unmoved_s", seconds(relay.unmoved)),
        ("confirmed_rows", relay.confirmed.into()),
        (
            "last_confirmed_at",
            relay.confirmed_at.map(|at| at.to_rfc3339()).into(),
        ),
        ("waits_for_stream", relay.has_waiting.into()),
        (
            "delayed_overdue_s",
            relay.delayed_overdue.map(|age| age.as_secs()).into(),
        ),
    ]
}
