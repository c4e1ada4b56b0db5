//! Judges an outbox by its status and by what its relays answer. Never reads either.

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    Health, IssueKind, Verdict, Well, WellOutbox,
    finding::{Component, Finding},
};
use crate::{
    outbox::{HeldSlot, Issue, RelayInstance, Status},
    policy::start::shifted,
};

/// What lasts for less may be a failover.
const STUCK_AFTER: TimeDelta = TimeDelta::seconds(10);
/// From this age on a transaction that holds a slot lets the log grow.
const HELD_LONG_S: f64 = 3600.0;
/// The cure for a loss.
const REPAIR: &str = "tidings verify --repair, which republishes what the outbox keeps; or tidings outbox \
                      acknowledge-loss STREAM";

/// What is stuck, by the status and by the relays that answer over NATS. A relay that answers is alive, even when its
/// lease has expired. Give no answers while a relay has the lease: what the others report then hinders no event.
#[must_use]
pub fn stuck(status: &Status, answered: &[RelayInstance], read_at: DateTime<Utc>) -> Vec<Issue> {
    let mut stuck = status.stuck_at(read_at);
    let [first, ..] = answered else {
        return stuck;
    };
    let not_relayed = status.not_relayed_at(read_at);
    stuck.retain(|one| {
        not_relayed
            .as_ref()
            .is_none_or(|not| not.cause != one.cause)
    });
    // A configuration holds up no event.
    let told = without_lease(answered).filter(|issue| issue.kind != IssueKind::Configuration);
    let told: Vec<Issue> = told.cloned().collect();
    if told.is_empty() {
        stuck.extend(not_relayed.map(|mut not| {
            not.kind = IssueKind::OwnerSilent;
            not.cause = format!(
                "{} runs and answers, but does not renew the lease",
                first.owner
            );
            not.cure = "see the log of the relay".to_owned();
            not
        }));
    }
    // The answering relays know the current cause; their last issue in the database may have another one.
    stuck.retain(|one| told.iter().all(|told| told.place != one.place));
    told.into_iter().chain(stuck).collect()
}

/// The issues of the relays that have no lease.
fn without_lease(relays: &[RelayInstance]) -> impl Iterator<Item = &Issue> {
    let relays = relays.iter().filter(|relay| relay.epoch.is_none());
    relays.flat_map(|relay| &relay.issues)
}

/// Judges an outbox alone, by its status and by the relays that answer over NATS, as [`judge`](super::judge()) does.
/// Give no answers while a relay has the lease, unless it is among them.
#[must_use]
pub fn judge_outbox(
    schema: &str,
    status: &Status,
    answered: &[RelayInstance],
    at: DateTime<Utc>,
) -> Verdict {
    let well = Well {
        outbox: Some(well(status)),
        ..Well::default()
    };
    Verdict::of(
        at,
        findings(schema, Some(status), answered, at),
        Vec::new(),
        well,
    )
}

pub(super) fn findings(
    schema: &str,
    status: Option<&Status>,
    relays: &[RelayInstance],
    at: DateTime<Utc>,
) -> Vec<Finding> {
    let Some(status) = status else {
        // The relays may know why the database cannot be read.
        let told = relays.iter().flat_map(|relay| &relay.issues);
        let told = told.map(|issue| finding(schema, issue, None, at));
        return once(told.collect());
    };
    let mut found = match status.is_relayed() {
        false => stuck(status, relays, at),
        true => stuck(status, &[], at),
    };
    // The relay with the lease reports over NATS what it could not write yet.
    let leased = relays.iter().filter(|relay| relay.epoch.is_some());
    found.extend(leased.flat_map(|relay| relay.issues.clone()));
    let told = status.issues.iter().chain(without_lease(relays));
    found.extend(
        told.filter(|one| one.kind == IssueKind::Configuration)
            .cloned(),
    );
    let mut findings: Vec<Finding> = found
        .iter()
        .map(|issue| finding(schema, issue, Some(status), at))
        .collect();
    if status.is_relayed() {
        let standbys = without_lease(relays).map(|issue| Finding {
            status: Health::Degraded,
            ..finding(schema, issue, Some(status), at)
        });
        findings.extend(standbys);
    }
    if without_lease(relays).next().is_none() {
        findings.extend(idle(schema, status, &findings, at));
    }
    findings.extend(held(schema, status));
    once(explained(findings, at))
}

/// What the relay reports explains why nothing is confirmed: it is stuck for that reason, and since nothing is.
fn explained(mut findings: Vec<Finding>, at: DateTime<Utc>) -> Vec<Finding> {
    let stands_still = findings
        .iter()
        .position(|one| one.kind == IssueKind::StandsStill);
    let explains = |one: &Finding| {
        one.component == Component::Relay
            && !matches!(one.kind, IssueKind::StandsStill | IssueKind::Configuration)
            && !is_of_loss(one.kind)
    };
    let (Some(stands_still), Some(reason)) = (stands_still, findings.iter().position(explains))
    else {
        return findings;
    };
    let since = findings[stands_still].since.min(findings[reason].since);
    let reason = &mut findings[reason];
    *reason = reason.clone().since(since, at);
    reason.status = Health::Stuck;
    findings.remove(stands_still);
    findings
}

/// One cause is one finding, however many relays report it.
fn once(mut findings: Vec<Finding>) -> Vec<Finding> {
    let mut known: Vec<String> = Vec::new();
    findings.retain(|finding| {
        let is_new = !known.contains(&finding.id);
        known.push(finding.id.clone());
        is_new
    });
    findings
}

fn finding(schema: &str, issue: &Issue, status: Option<&Status>, at: DateTime<Utc>) -> Finding {
    let (component, place) = match issue.place.split_once(' ') {
        Some(("stream" | "subject", place)) => (Component::Relay, Some(place)),
        _ if issue.kind == IssueKind::Configuration => (Component::Relay, None),
        _ if issue.place == "relay" => (Component::Relay, None),
        _ => (Component::Outbox, None),
    };
    let health = health(issue, at);
    let mut finding = Finding::new((component, schema), issue.kind, health, &*issue.cause)
        .since(Some(issue.since), at)
        .cure(&*issue.cure);
    if let Some(place) = place {
        finding = finding.at(place);
    }
    match (status, issue.kind) {
        (None, _) => finding,
        (Some(_), _) if is_loss(issue) => finding.cure(REPAIR),
        (Some(status), IssueKind::DelayedLate) => of_delayed(finding, status),
        (Some(status), IssueKind::DelayedHeld) => held_back(of_delayed(finding, status), status),
        (Some(status), IssueKind::EventParked) => finding
            .fact("undecided", status.undecided)
            .fact("oldest_s", status.oldest_undecided_seconds),
        (Some(status), _) => finding
            .fact("backlog", status.backlog)
            .fact("oldest_s", status.oldest_unpublished_seconds)
            .fact("parked", status.parked)
            .fact("last_confirmed_at", last_confirmed(status)),
    }
}

fn health(issue: &Issue, at: DateTime<Utc>) -> Health {
    match issue.kind {
        IssueKind::DatabaseStandby | IssueKind::DatabaseForeign => Health::Refused,
        // Nothing waits for a configuration.
        IssueKind::EventParked | IssueKind::Configuration => Health::Degraded,
        _ if is_loss(issue) => Health::Degraded,
        _ if issue.since > shifted(at, -STUCK_AFTER) => Health::Degraded,
        _ => Health::Stuck,
    }
}

/// Whether it is a loss, and not a fault of the relay that has met one.
fn is_loss(issue: &Issue) -> bool {
    is_of_loss(issue.kind) && issue.place.starts_with("stream ")
}

fn is_of_loss(kind: IssueKind) -> bool {
    matches!(
        kind,
        IssueKind::StreamGone
            | IssueKind::StreamRecreated
            | IssueKind::StreamTruncated
            | IssueKind::StreamDiverged
    )
}

fn last_confirmed(status: &Status) -> Option<String> {
    let batch = status.last_batch.as_ref()?;
    Some(batch.at.to_rfc3339())
}

fn of_delayed(finding: Finding, status: &Status) -> Finding {
    finding
        .fact("delayed", status.delayed)
        .fact("overdue_s", status.next_due_seconds.map(|due| -due))
}

/// Names the transaction that holds delayed events.
fn held_back(mut finding: Finding, status: &Status) -> Finding {
    let mut held = status.held_slots.iter();
    let Some(held) = held.find(|held| held.is_of_delayed()) else {
        return finding;
    };
    finding.cause = format!("{}: {held}", finding.cause);
    ended(finding, held)
}

/// Adds the statement that ends a transaction.
fn ended(finding: Finding, held: &HeldSlot) -> Finding {
    match held.pid {
        Some(pid) => finding
            .fact("pid", pid)
            .command(format!("select pg_terminate_backend({pid})")),
        None => finding,
    }
}

/// No relay runs, and nothing waits for one.
fn idle(schema: &str, status: &Status, found: &[Finding], at: DateTime<Utc>) -> Option<Finding> {
    let is_told = found.iter().any(|finding| {
        matches!(
            finding.kind,
            IssueKind::NoRelay
                | IssueKind::OwnerSilent
                | IssueKind::DatabaseStandby
                | IssueKind::DatabaseForeign
        )
    });
    if status.is_relayed() || is_told {
        return None;
    }
    let of = (Component::Relay, schema);
    Some(match &status.lease.owner {
        None => Finding::new(
            of,
            IssueKind::NoRelay,
            Health::Notice,
            "no relay has the lease, and no event waits",
        )
        .cure(
            "start a relay before services commit events: tidings relay, or a worker that has one",
        ),
        Some(owner) => {
            let ended = status.lease.remaining_seconds;
            let since = shifted(at, seconds(ended));
            let cause = format!("{owner} has stopped renewing its lease; no event waits yet");
            Finding::new(of, IssueKind::OwnerSilent, Health::Degraded, cause)
                .since(Some(since), at)
                .cure(
                    "start a relay: tidings relay; the process of the owner is dead or frozen, its host is gone, or \
                     it cannot write to the database",
                )
        }
    })
}

/// Transactions that hold slots of the log: they delay only the freeing.
fn held(schema: &str, status: &Status) -> Vec<Finding> {
    let held = status
        .held_slots
        .iter()
        .filter(|held| !held.is_of_delayed());
    let told = held.map(|held| {
        let health = match held.age_seconds.is_some_and(|age| age >= HELD_LONG_S) {
            true => Health::Degraded,
            false => Health::Notice,
        };
        let cause = format!("a slot of the log is held and cannot be freed: {held}");
        let of = (Component::Outbox, schema);
        let finding = Finding::new(of, IssueKind::SlotHeld, health, cause)
            .at(&held.slot)
            .fact("age_s", held.age_seconds)
            .cure("end that transaction, unless it is at work: the log grows meanwhile");
        ended(finding, held)
    });
    told.collect()
}

fn seconds(seconds: f64) -> TimeDelta {
    const MOST: f64 = 1e9;
    let millis = (seconds.clamp(-MOST, MOST) * 1000.0).round();
    #[allow(clippy::cast_possible_truncation)] // clamped
    TimeDelta::milliseconds(millis as i64)
}

pub(super) fn well(status: &Status) -> WellOutbox {
    WellOutbox {
        owner: status.lease.owner.clone().filter(|_| status.is_relayed()),
        epoch: status.lease.epoch,
        backlog: status.backlog,
        parked: status.parked,
        delayed: status.delayed,
        next_due_s: status.next_due_seconds,
    }
}
