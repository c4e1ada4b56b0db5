//! Judges the subscribers by what the server and their instances report. Never asks either.

#[cfg(feature = "outbox")]
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};

use super::{
    Health, IssueKind, Verdict, Well,
    finding::{Component, Finding},
};
use crate::operations::{
    doctor::Unseen,
    subscribers::{SubscriberIssue, SubscriberOverview, SubscriberState},
};

/// The cure for what could not be seen.
const LOOK_AGAIN: &str = "run it again when NATS answers; deploy/nats/permissions.conf has the permissions that the \
                          program needs";

/// Judges subscribers alone, as [`judge`](super::judge()) does. Their dead letters are not in an overview.
#[must_use]
pub fn judge_subscribers(overview: &SubscriberOverview, at: DateTime<Utc>) -> Verdict {
    let findings = findings(overview, &BTreeMap::new(), at);
    let well = well(overview, &findings);
    Verdict::of(at, findings, unseen(overview), well)
}

pub(super) fn well(overview: &SubscriberOverview, found: &[Finding]) -> Well {
    let is_well = |name: &str| !found.iter().any(|finding| finding.is_of_subscriber(name));
    let all = &overview.subscribers;
    Well {
        subscribers: all.iter().filter(|one| is_well(&one.name)).count(),
        all_subscribers: all.len(),
        instances: all.iter().map(|one| one.instances.len()).sum(),
        ..Well::default()
    }
}

pub(super) fn findings(
    overview: &SubscriberOverview,
    dead_letters: &BTreeMap<String, u64>,
    at: DateTime<Utc>,
) -> Vec<Finding> {
    let whole = overview.issues.iter().map(|issue| of_account(issue, at));
    let each = overview.subscribers.iter();
    let each = each.flat_map(|one| of_subscriber(one, at));
    let waiting = dead_letters.iter().filter(|(_, count)| **count > 0);
    let waiting = waiting.map(|(name, count)| of_dead_letters(name, *count));
    whole.chain(each).chain(waiting).collect()
}

/// The places that could not be seen, each one once.
pub(super) fn unseen(overview: &SubscriberOverview) -> Vec<Unseen> {
    let told = |what: &str, unseen: &str| {
        let (part, why) = unseen.split_once(": ").unwrap_or((unseen, unseen));
        Unseen::new(format!("{what}{part}"), IssueKind::Unknown, why, LOOK_AGAIN)
    };
    let mut all: Vec<Unseen> = overview.unseen.iter().map(|one| told("", one)).collect();
    for subscriber in &overview.subscribers {
        let own = subscriber.unseen.iter();
        let own = own.filter(|unseen| !overview.unseen.contains(unseen));
        let whose = format!("{}: ", subscriber.name);
        all.extend(own.map(|one| told(&whose, one)));
    }
    all
}

/// An issue that concerns no single subscriber.
fn of_account(issue: &SubscriberIssue, at: DateTime<Utc>) -> Finding {
    let health = if issue.is_stuck {
        Health::Stuck
    } else {
        Health::Notice
    };
    told(
        Finding::new(
            (Component::Nats, "account"),
            issue.kind,
            health,
            &*issue.cause,
        ),
        issue,
        at,
    )
}

fn of_subscriber(state: &SubscriberState, at: DateTime<Utc>) -> Vec<Finding> {
    let of = (Component::Subscriber, &*state.name);
    let issues = state.issues.iter().map(|issue| {
        let health = health(issue, state);
        let finding = Finding::new(of, issue.kind, health, &*issue.cause);
        figures(told(finding, issue, at), state)
    });
    let paused = state.paused_until.map(|until| {
        let finding = Finding::new(
            of,
            IssueKind::Paused,
            Health::Notice,
            "an operator has paused it",
        )
        .fact("until", until.to_rfc3339_opts(SecondsFormat::Secs, true))
        .cure("resume it when the reason for the pause is over");
        figures(finding, state)
    });
    issues.chain(paused).collect()
}

fn health(issue: &SubscriberIssue, state: &SubscriberState) -> Health {
    let retries = state.retries.as_ref().map_or(0, |retries| retries.due);
    let waits = state.pending() > 0 || state.ack_pending() > 0 || retries > 0;
    match issue.kind {
        IssueKind::Clock => Health::Danger,
        // Nothing waits behind it.
        IssueKind::CircuitOpen if !waits => Health::Degraded,
        // Live events go on.
        IssueKind::ReplayStuck => Health::Degraded,
        _ if issue.is_stuck => Health::Stuck,
        _ => Health::Notice,
    }
}

fn told(finding: Finding, issue: &SubscriberIssue, at: DateTime<Utc>) -> Finding {
    let finding = finding.since(issue.since, at);
    match &issue.cure {
        Some(cure) => finding.cure(&**cure),
        None => finding,
    }
}

fn figures(finding: Finding, state: &SubscriberState) -> Finding {
    finding
        .fact("pending", state.known_pending)
        .fact("ack_pending", state.ack_pending())
        .fact("instances", state.instances.len())
        .fact(
            "retries",
            state
                .retries
                .map(|retries| retries.due.saturating_add(retries.scheduled)),
        )
}

fn of_dead_letters(name: &str, count: u64) -> Finding {
    let what = if count == 1 {
        "dead letter waits"
    } else {
        "dead letters wait"
    };
    Finding::new(
        (Component::Subscriber, name),
        IssueKind::DeadLetters,
        Health::Degraded,
        format!("{count} {what} for a decision: their events were dead-lettered"),
    )
    .fact("dead_letters", count)
    .cure(
        "remove the cause that their errors name, then tidings dead-letters redrive; or tidings dead-letters discard",
    )
}
