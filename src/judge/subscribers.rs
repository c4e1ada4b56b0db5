//! Judges the subscribers by what the server and their instances report. Never asks either.

#[cfg(feature = "outbox")]
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike, SecondsFormat, TimeDelta, Utc};

use super::{
    Health, IssueKind, Verdict, Well,
    finding::{Component, Finding},
};
use crate::{
    operations::{
        doctor::{ParkedKeys, Unseen},
        subscribers::{SubscriberIssue, SubscriberOverview, SubscriberState, WaitingRetries},
    },
    replay::{Replay, ReplayState},
};

/// Retries that are due after this time are a notice.
const FAR: TimeDelta = TimeDelta::minutes(30);
/// From this year on, the end of a pause is none.
const FOREVER_FROM: i32 = 2199;

/// The cure for what could not be seen.
const LOOK_AGAIN: &str = "run it again when NATS answers; deploy/nats/permissions.conf has the permissions that the \
                          program needs";

/// Judges subscribers alone, as [`judge`](super::judge()) does. Their dead letters and their parked keys are not in an
/// overview.
#[must_use]
pub fn judge_subscribers(overview: &SubscriberOverview, at: DateTime<Utc>) -> Verdict {
    let findings = findings(overview, &BTreeMap::new(), &BTreeMap::new(), at);
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
    parked_keys: &BTreeMap<String, ParkedKeys>,
    at: DateTime<Utc>,
) -> Vec<Finding> {
    let whole = overview.issues.iter().map(|issue| of_account(issue, at));
    let each = overview.subscribers.iter();
    let each = each.flat_map(|one| of_subscriber(one, at));
    let waiting = dead_letters.iter().filter(|(_, count)| **count > 0);
    let waiting = waiting.map(|(name, count)| of_dead_letters(name, *count));
    let parked = parked_keys.iter().filter(|(_, keys)| keys.count > 0);
    let parked = parked.map(|(name, keys)| of_parked(name, keys, at));
    let replays = overview.replays.iter();
    let paused = replays.filter(|replay| replay.state == ReplayState::Paused);
    let paused = paused.map(|replay| of_paused_replay(replay, at));
    whole
        .chain(each)
        .chain(waiting)
        .chain(parked)
        .chain(paused)
        .collect()
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
        let cause = format!("an operator has paused it{}", paused_for(state, until));
        let finding = Finding::new(of, IssueKind::Paused, Health::Notice, cause)
            .fact("until", second(until))
            .cure("resume it when the reason for the pause is over");
        figures(finding, state)
    });
    let far = state.retries.and_then(|retries| {
        let farthest = retries.farthest_at?;
        (farthest - at > FAR).then(|| figures(of_far_retries(of, &retries, farthest), state))
    });
    issues.chain(paused).chain(far).collect()
}

/// Until when it is paused, and what waits meanwhile: a pause without an end is easily forgotten.
fn paused_for(state: &SubscriberState, until: DateTime<Utc>) -> String {
    let end = match until.year() < FOREVER_FROM {
        true => format!(" until {}", second(until)),
        false => " without an end".to_owned(),
    };
    match state.pending() {
        0 => format!("{end}; no events wait"),
        pending => format!("{end}; {pending} events wait"),
    }
}

/// Retries that wait for long: the handler has asked for it, or a clock is wrong.
fn of_far_retries(
    of: (Component, &str),
    retries: &WaitingRetries,
    farthest: DateTime<Utc>,
) -> Finding {
    let next = retries.next_at.unwrap_or(farthest);
    let cause = format!(
        "{} retries wait, the next until {} and the last until {}",
        retries.scheduled,
        second(next),
        second(farthest)
    );
    Finding::new(of, IssueKind::RetriesFar, Health::Notice, cause).cure(
        "nothing, when the handlers ask for it (retry_after, or the policy of the retries); else compare the clocks of the          workers with that of NATS",
    )
}

fn health(issue: &SubscriberIssue, state: &SubscriberState) -> Health {
    let retries = state.retries.as_ref().map_or(0, |retries| retries.due);
    let waits = state.pending() > 0 || state.ack_pending() > 0 || retries > 0;
    match issue.kind {
        IssueKind::Clock => Health::Danger,
        // Nothing waits behind it.
        IssueKind::CircuitOpen if !waits => Health::Degraded,
        // Live events go on.
        IssueKind::ReplayStuck | IssueKind::NameWithoutHandler if issue.is_stuck => {
            Health::Degraded
        }
        // The other keys go on.
        IssueKind::KeyWaits => Health::Degraded,
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

fn of_parked(name: &str, keys: &ParkedKeys, at: DateTime<Utc>) -> Finding {
    let named = keys.some.iter().map(|key| {
        format!(
            "{} (by the event {} of {}, {}: {})",
            key.key, key.sequence, key.stream, key.cause, key.error
        )
    });
    let named: Vec<String> = named.collect();
    let what = match keys.count {
        1 => "1 key is parked",
        _ => "keys are parked",
    };
    let count = match keys.count {
        1 => String::new(),
        count => format!("{count} "),
    };
    let cause = format!(
        "{count}{what}, and their later events are dead-lettered: {}",
        named.join(", ")
    );
    Finding::new(
        (Component::Subscriber, name),
        IssueKind::KeyParked,
        Health::Degraded,
        cause,
    )
    .since(keys.some.iter().map(|key| key.since).min(), at)
    .fact("parked_keys", keys.count)
    .cure(format!(
        "correct what the first event of each key failed of, then redrive the key in its order: tidings dead-letters \
         redrive --subscriber {name} --key KEY"
    ))
}

fn of_paused_replay(replay: &Replay, at: DateTime<Utc>) -> Finding {
    let (id, events) = (replay.id, replay.events());
    Finding::new(
        (Component::Subscriber, &*replay.subscriber),
        IssueKind::ReplayPaused,
        Health::Notice,
        format!("the replay {id} of {events} events is paused"),
    )
    .since(Some(replay.state_at), at)
    .cure(format!(
        "tidings replay resume {id}, when the reason for the pause is over; or tidings replay cancel {id}"
    ))
}

fn second(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
