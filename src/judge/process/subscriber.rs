//! Judges a subscriber by the figures of its process.

use std::time::Duration;

use serde_json::Value;

use super::{Component, Finding, Health, IssueKind, Judging, Part, Unseen};
use crate::{
    instance::{Activity, FailingKey},
    policy::breaker::CircuitState,
    process::figures::SubscriberFigures,
};

/// All slots may be taken for this long by attempts that do not end, unless the subscriber says otherwise.
const LONGEST: Duration = Duration::from_secs(60);
/// How long the lease of an ordered subscriber may be without a holder: the lease and two seconds.
const LEASELESS: Duration = Duration::from_secs(7);
/// The consumers are looked at every two seconds.
const SEEN: Duration = Duration::from_secs(10);
const SEE_LOG: &str = "see the log of the process";

pub(super) fn part(subscriber: &SubscriberFigures, judging: &Judging<'_>) -> Part {
    let of = (Component::Subscriber, &*subscriber.name);
    let (status, finding) = judging
        .of_process(of)
        .or_else(|| starting(subscriber, judging))
        .or_else(|| hindered(subscriber, judging))
        .or_else(|| standby(subscriber))
        .or_else(|| paused(subscriber))
        .or_else(|| no_progress(subscriber, judging))
        .or_else(|| degraded(subscriber, judging))
        .or_else(|| busy(subscriber, judging))
        .unwrap_or_else(|| match waits(subscriber) {
            false => (Health::Idle, None),
            true => (Health::Ok, None),
        });
    Part::new(of, status, finding).progress(progress(subscriber))
}

/// What waits at the server is known for as long as the looks are answered.
pub(super) fn unseen(subscriber: &SubscriberFigures) -> Option<Unseen> {
    if subscriber.activity != Activity::Active {
        return None;
    }
    let age = subscriber.server.map(|server| server.age);
    if age.is_none_or(|age| age < SEEN) {
        return None;
    }
    let what = format!("what waits for {} at the server", subscriber.name);
    Some(match &subscriber.hindrance {
        Some((why, _)) => Unseen::new(what, IssueKind::Instance, &**why, SEE_LOG),
        None => Unseen::new(
            what,
            IssueKind::NatsSilent,
            "the server has not answered",
            "check whether the nats-server is frozen, overloaded or cut off",
        ),
    })
}

type Judged = Option<(Health, Option<Finding>)>;

/// Whether any event waits, here or at the server.
fn waits(subscriber: &SubscriberFigures) -> bool {
    let pending = subscriber.server.map_or(0, |server| server.pending);
    subscriber.in_flight > 0 || pending > 0
}

fn starting(subscriber: &SubscriberFigures, judging: &Judging<'_>) -> Judged {
    if subscriber.is_set_up {
        return None;
    }
    let of = (Component::Subscriber, &*subscriber.name);
    let finding = subscriber.hindrance.as_ref().map(|(why, age)| {
        judging
            .finding(of, IssueKind::NotStarted, Health::Starting, &**why)
            .since(Some(judging.since(*age)), judging.at)
    });
    Some((Health::Starting, finding))
}

/// It cannot work, whether or not anything waits.
fn hindered(subscriber: &SubscriberFigures, judging: &Judging<'_>) -> Judged {
    let of = (Component::Subscriber, &*subscriber.name);
    let lasts = |told: &Option<(String, Duration)>, least: Duration| {
        told.clone().filter(|(_, age)| *age >= least)
    };
    let stuck_after = judging.stuck_after;
    let finding = if let Some((why, age)) = lasts(&subscriber.leaseless, LEASELESS) {
        judging.stuck(of, IssueKind::NoLease, age, why)
    } else if let Some((why, age)) = lasts(&subscriber.hindrance, stuck_after) {
        judging.stuck(of, IssueKind::Instance, age, why)
    } else if let Some((why, age)) = lasts(&subscriber.unconfirmed, stuck_after) {
        judging.stuck(of, IssueKind::Unconfirmed, age, why)
    } else {
        let age = subscriber.interrupted.filter(|age| *age >= stuck_after)?;
        let cause = "it was active before, and has not begun again";
        judging
            .stuck(of, IssueKind::Instance, age, cause)
            .cure(SEE_LOG)
    };
    Some((Health::Stuck, Some(finding)))
}

fn standby(subscriber: &SubscriberFigures) -> Judged {
    (subscriber.activity == Activity::Standby).then_some((Health::Standby, None))
}

fn paused(subscriber: &SubscriberFigures) -> Judged {
    subscriber.is_paused.then_some((Health::Paused, None))
}

/// Something is due, and no attempt ends.
fn no_progress(subscriber: &SubscriberFigures, judging: &Judging<'_>) -> Judged {
    let of = (Component::Subscriber, &*subscriber.name);
    let stuck_after = judging.stuck_after;
    let long = |age: Option<Duration>, least: Duration| age.filter(|age| *age >= least);
    let limit = subscriber
        .stuck_after
        .unwrap_or_else(|| subscriber.timeout.min(LONGEST));
    let open = long(subscriber.circuit_open, stuck_after).filter(|_| waits(subscriber));
    let finding = if let Some(age) = open {
        judging
            .stuck(of, IssueKind::CircuitOpen, age, circuit(subscriber))
            .cure("give the handler what it needs; the log says what failed. The circuit closes by itself")
    } else if let Some(age) = long(subscriber.idle_with_work, stuck_after) {
        let cause = "events are due, no attempt runs, and none has ended";
        judging
            .stuck(of, IssueKind::NoProgress, age, cause)
            .cure("see the log of the process; restart it if that names nothing")
    } else {
        slots_taken(subscriber, judging, limit)?
    };
    Some((Health::Stuck, Some(finding)))
}

/// Its attempts take long, and as long as they may.
fn busy(subscriber: &SubscriberFigures, judging: &Judging<'_>) -> Judged {
    let mut finding = slots_taken(subscriber, judging, judging.stuck_after)?;
    finding.status = Health::Notice;
    Some((Health::Notice, Some(finding)))
}

/// All slots are taken by attempts of which none has ended for so long.
fn slots_taken(
    subscriber: &SubscriberFigures,
    judging: &Judging<'_>,
    least: Duration,
) -> Option<Finding> {
    let of = (Component::Subscriber, &*subscriber.name);
    let is_over = |ended: Duration| ended < least;
    let age = subscriber.oldest_attempt.filter(|age| *age >= least)?;
    if !subscriber.is_full || subscriber.last_ended.is_some_and(is_over) {
        return None;
    }
    let (slots, seconds) = (subscriber.concurrency, age.as_secs());
    let event = subscriber.oldest_event.as_ref();
    let whose = event.map_or_else(String::new, |event| format!(" (of {event})"));
    let cause = format!(
        "all {slots} slots are taken, the oldest attempt{whose} has run for {seconds} s, and none ends"
    );
    let finding = judging.stuck(of, IssueKind::SlotsTaken, age, cause).cure(
        "check what the handlers wait for; when they may take that long, set .stuck_after of the subscriber",
    );
    Some(finding)
}

fn circuit(subscriber: &SubscriberFigures) -> String {
    let probe = subscriber.probe_in.map(|probe_in| {
        let seconds = probe_in.as_secs();
        format!("; the next one in {seconds} s")
    });
    let error = subscriber.circuit_error.as_ref();
    let error = error.map(|error| format!("; the last error: {error}"));
    format!(
        "the circuit is {}: nearly every attempt failed, so only one event at a time is pulled, as a probe{}{}",
        subscriber.circuit,
        probe.unwrap_or_default(),
        error.unwrap_or_default()
    )
}

/// It works, or has stopped a moment ago, and an operator should know something.
fn degraded(subscriber: &SubscriberFigures, judging: &Judging<'_>) -> Judged {
    let of = (Component::Subscriber, &*subscriber.name);
    let told = [
        &subscriber.leaseless,
        &subscriber.hindrance,
        &subscriber.unconfirmed,
    ];
    let mut told = told.into_iter().flatten();
    let status = Health::Degraded;
    let waiting = subscriber.failing.iter();
    let waiting: Vec<&FailingKey> = waiting
        .filter(|key| key.has_failed_for_long(judging.at))
        .collect();
    let finding = if let Some((why, age)) = told.next() {
        judging
            .finding(of, IssueKind::Instance, status, &**why)
            .since(Some(judging.since(*age)), judging.at)
    } else if subscriber.circuit != CircuitState::Closed {
        judging.finding(of, IssueKind::CircuitOpen, status, circuit(subscriber))
    } else if let Some((cause, cure)) = FailingKey::told(&waiting) {
        let since = waiting.iter().map(|key| key.since).min();
        judging
            .finding(of, IssueKind::KeyWaits, status, cause)
            .since(since, judging.at)
            .cure(cure)
    } else if subscriber.notes.is_empty() {
        return None;
    } else {
        let first = subscriber.notes.first().map(|(kind, _)| *kind);
        let is_one = |kind: &IssueKind| subscriber.notes.iter().all(|(of, _)| of == kind);
        let kind = first.filter(is_one).unwrap_or(IssueKind::Instance);
        let notes: Vec<&str> = subscriber.notes.iter().map(|(_, note)| &**note).collect();
        judging.finding(of, kind, status, notes.join("; "))
    };
    Some((status, Some(finding)))
}

fn progress(subscriber: &SubscriberFigures) -> Vec<(&'static str, Value)> {
    let seconds = |age: Option<Duration>| Value::from(age.map(|age| age.as_secs()));
    let server = subscriber.server;
    vec![
        ("activity", subscriber.activity.as_str().into()),
        ("pending", server.map(|server| server.pending).into()),
        (
            "ack_pending",
            server.map(|server| server.ack_pending).into(),
        ),
        ("running", subscriber.running.into()),
        ("concurrency", subscriber.concurrency.into()),
        ("resting", subscriber.resting.into()),
        ("in_flight", subscriber.in_flight.into()),
        ("in_flight_bytes", subscriber.in_flight_bytes.into()),
        ("ordered", subscriber.ordered.into()),
        ("oldest_attempt_s", seconds(subscriber.oldest_attempt)),
        ("last_ended_s", seconds(subscriber.last_ended)),
        ("circuit", subscriber.circuit.as_str().into()),
        ("handled", subscriber.handled.into()),
        ("failed", subscriber.failed.into()),
        ("dead_lettered", subscriber.dead_lettered.into()),
    ]
}
