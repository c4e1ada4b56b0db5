//! The issues of a subscriber, derived from what was read about it. Values in, issues out: sends no request.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Serialize;

use super::{SubscriberConsumer, SubscriberState};
use crate::{
    instance::{Activity, Instance},
    nats::{LeaseSign, starts_beyond, subjects},
    policy::issue_kind::IssueKind as Kind,
};

/// A lease that was not renewed for this long is free, failover included.
const LEASE: TimeDelta = TimeDelta::seconds(10);
/// How late the server may deliver a retry.
const LATE: TimeDelta = TimeDelta::seconds(60);
/// By how much the clocks of a worker and a server may differ.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::seconds(5);

/// An issue of a subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SubscriberIssue {
    /// The kind.
    pub kind: Kind,
    /// The cause.
    pub cause: String,
    /// What to do about it; `None` when the cause states it.
    pub cure: Option<String>,
    /// Since when, or when it last worked, as far as that is known.
    pub since: Option<DateTime<Utc>>,
    /// Whether it holds events up, or may have lost some; otherwise it is only informative.
    pub is_stuck: bool,
}

/// What was read about a subscriber in addition to its state.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The server's time.
    pub(super) now: DateTime<Utc>,
    /// Whether its instances could be queried.
    pub(super) are_asked: bool,
    /// The last sequence of streams, as far as it is known.
    pub(super) ends: BTreeMap<String, u64>,
    /// Whether the streams of its retries and of its dead letters exist, as far as that is known.
    pub(super) has_retries: Option<bool>,
    pub(super) has_dead_letters: Option<bool>,
    /// The names of all existing streams, whatever subjects they have.
    pub(super) there: Vec<String>,
    pub(super) lease: Option<LeaseSign>,
    /// How far the clock of each instance is ahead of the server's, by instance id.
    pub(super) clocks: Vec<(String, TimeDelta)>,
    /// The replays that should run but do not, and why.
    pub(super) replays: Vec<(String, String)>,
}

impl SubscriberIssue {
    pub(super) fn stuck(kind: Kind, cause: impl Into<String>) -> Self {
        Self {
            kind,
            cause: cause.into(),
            cure: None,
            since: None,
            is_stuck: true,
        }
    }

    fn minor(kind: Kind, cause: impl Into<String>) -> Self {
        Self {
            is_stuck: false,
            ..Self::stuck(kind, cause)
        }
    }

    pub(super) fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }

    fn since(mut self, since: Option<DateTime<Utc>>) -> Self {
        self.since = since;
        self
    }
}

/// All issues; those that hold events up come first.
pub(super) fn issues(state: &SubscriberState, seen: &Seen) -> Vec<SubscriberIssue> {
    let mut issues = streams(state, seen);
    issues.extend(consumers(state));
    issues.extend(instances(state, seen));
    issues.extend(state.consumers.iter().filter_map(full));
    issues.extend(state.consumers.iter().filter_map(|consumer| {
        let last = *seen.ends.get(&consumer.stream)?;
        let is_waiting = consumer.pending == 0;
        let cause = starts_beyond(&consumer.stream, &state.name, consumer.delivered, last);
        Some(SubscriberIssue::stuck(
            Kind::BeyondEnd,
            cause.filter(|_| is_waiting)?,
        ))
    }));
    issues.extend(late(state, seen));
    issues.extend(seen.replays.iter().map(|(id, why)| {
        SubscriberIssue::stuck(
            Kind::ReplayStuck,
            format!("the replay {id} does not continue: {why}"),
        )
        .cure(format!(
            "tidings replay show {id}, or tidings replay cancel {id}"
        ))
    }));
    issues.extend(clocks(state, seen));
    let drifts = state.consumers.iter().filter(|one| !one.drift.is_empty());
    issues.extend(drifts.map(|one| {
        let cause = format!("the settings of the consumer of {} differ", one.stream);
        SubscriberIssue::minor(Kind::Drift, cause)
            .cure("tidings subscribers show, which shows the differences")
    }));
    issues.sort_by_key(|issue| !issue.is_stuck);
    issues
}

/// Retries of a subscriber that does not exist.
pub(super) fn orphaned(name: &str, count: u64) -> SubscriberIssue {
    let cause = format!(
        "{count} events of the subscriber {name} wait in RETRIES, and it has no consumer that takes them"
    );
    SubscriberIssue::stuck(Kind::RetriesOrphaned, cause).cure(format!(
        "start a worker that has {name}, which handles them; or tidings subscribers remove {name}, which \
         dead-letters them"
    ))
}

fn streams(state: &SubscriberState, seen: &Seen) -> Vec<SubscriberIssue> {
    let name = &state.name;
    let gone = [
        (
            seen.has_retries,
            Kind::RetriesGone,
            format!(
                "no stream takes {}: RETRIES is gone with the events that waited in it, and no event can be retried \
                 later",
                subjects::retry(name, ">")
            ),
        ),
        (
            seen.has_dead_letters,
            Kind::DeadLettersGone,
            format!(
                "no stream takes {}: DEAD_LETTERS is gone with its dead letters, and no event can be dead-lettered",
                subjects::dead_letters_of(name)
            ),
        ),
    ];
    let gone = gone
        .into_iter()
        .filter(|(is_there, ..)| *is_there == Some(false));
    gone.map(|(_, kind, cause)| {
        let (subjects, what) = cause.split_once(": ").unwrap_or((&cause, ""));
        let is_there = |stream: &&String| what.starts_with(&format!("{stream} "));
        match seen.there.iter().find(is_there) {
            Some(stream) => {
                let cause =
                    format!("{subjects}: {stream} exists, and has other subjects or is a mirror");
                let cure =
                    "tidings streams apply, which sets its subjects back, or says what prevents it";
                SubscriberIssue::stuck(kind, cause).cure(cure)
            }
            None => {
                SubscriberIssue::stuck(kind, cause).cure("tidings streams apply, which creates it")
            }
        }
    })
    .collect()
}

/// Consumers that should exist. A running worker recreates them within a few seconds.
fn consumers(state: &SubscriberState) -> Vec<SubscriberIssue> {
    let (name, since) = (&state.name, state.last_seen_at);
    let missing = state.missing.iter();
    let told = missing.map(|missing| match (&missing.stream, state.instances.is_empty()) {
        (Some(stream), false) => SubscriberIssue::stuck(
            Kind::ConsumerDeleted,
            format!("its consumer of {stream} was deleted while an instance runs: which events wait there is not \
                 known"),
        )
        .cure("wait ten seconds, in which its workers recreate it; then see their log"),
        (stream, _) => {
            let stream = stream.as_ref();
            let of = stream.map_or("events".to_owned(), ToString::to_string);
            let cause = format!(
                "it no longer has a consumer of {of}, and no instance answers: which events wait there is not known"
            );
            SubscriberIssue::stuck(Kind::NoConsumer, cause).cure(format!(
                "start a worker that has the subscriber, which recreates the consumer at the start that the code \
                 names (.start), so that events may be handled again; or, when the subscriber is gone for good, \
                 tidings subscribers remove {name}"
            ))
        }
    });
    told.map(|issue| issue.since(since)).collect()
}

fn instances(state: &SubscriberState, seen: &Seen) -> Vec<SubscriberIssue> {
    let mut issues = Vec::new();
    issues.extend(no_instance(state, seen));
    let mut told: Vec<&str> = Vec::new();
    for instance in &state.instances {
        for issue in [&instance.issue, &instance.replay_issue]
            .into_iter()
            .flatten()
        {
            // One cause gets one line, however many instances report it.
            if !told.contains(&issue.as_str()) {
                told.push(issue);
                let cause = format!("{}: {issue}", place(instance));
                issues.push(SubscriberIssue::stuck(Kind::Instance, cause));
            }
        }
    }
    let open = state.instances.iter().find(|one| one.circuit.is_open());
    issues.extend(open.map(|instance| {
        let Instance { circuit, .. } = instance;
        let cause = format!(
            "{}: the circuit is {circuit}: nearly every attempt failed, so only one event at a time is pulled, as a \
             probe",
            place(instance)
        );
        SubscriberIssue::stuck(Kind::CircuitOpen, cause)
            .cure("give the handler what it needs; the log of the worker says what failed. The circuit closes by \
                 itself")
    }));
    issues.extend(no_lease(state, seen));
    issues
}

/// No instance is active although events wait. From outside the causes look alike, except for one.
fn no_instance(state: &SubscriberState, seen: &Seen) -> Option<SubscriberIssue> {
    let is_paused = state.paused_until.is_some();
    if is_paused || !seen.are_asked || !state.instances.is_empty() {
        return None;
    }
    let waiting = waiting(state, seen.now)?;
    let name = &state.name;
    let pulls = state
        .consumers
        .iter()
        .map(|one| one.pulls)
        .fold(0, u64::saturating_add);
    let issue = match pulls {
        0 => {
            let last = state.last_seen_at.map_or_else(
                || "no instance was ever seen".to_owned(),
                |at| format!("an instance was last seen at {}", second(at)),
            );
            SubscriberIssue::stuck(
                Kind::NoInstance,
                format!(
                    "{waiting}, and no instance answers: the process is down or frozen, a handler blocks it, the \
                     subscriber is no longer in the code, or its user may not answer; {last}"
                ),
            )
            .cure(format!(
                "start or restart its worker; allow it to subscribe to tidings.status.{name} and to answer \
                 (allow_responses); or, when the subscriber is gone for good, tidings subscribers remove {name}"
            ))
        }
        pulls => SubscriberIssue::stuck(
            Kind::NoInstance,
            format!(
                "{waiting}, and no instance answers, though {pulls} pulls of an instance wait at the server: its \
                 user may not answer, or it has been frozen or blocked by a handler for less than ten seconds"
            ),
        )
        .cure(format!(
            "allow its worker to subscribe to tidings.status.{name} and to answer (allow_responses); else check \
             whether its process is frozen"
        )),
    };
    Some(issue.since(state.last_seen_at))
}

/// The counts of what waits for an instance, if anything waits.
fn waiting(state: &SubscriberState, now: DateTime<Utc>) -> Option<String> {
    let (pending, ack_pending) = of_events(state);
    let retries = state.retries.as_ref();
    let due = retries.map_or(0, |retries| {
        let is_due = retries.next_at.is_some_and(|next| next <= now);
        retries.due.max(u64::from(is_due))
    });
    let counts = [
        (pending, "pending"),
        (ack_pending, "ack_pending"),
        (due, "to be retried"),
    ];
    let counts = counts.into_iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts.map(|(n, what)| format!("{n} {what}")).collect();
    match counts.is_empty() {
        true => None,
        false => Some(format!("events wait ({})", counts.join(", "))),
    }
}

/// The pending and ack pending messages of the consumers of events; retries are counted in their stream.
fn of_events(state: &SubscriberState) -> (u64, u64) {
    let knows_retries = state.retries.is_some();
    let consumers = state.consumers.iter();
    let consumers = consumers.filter(|one| !(knows_retries && one.is_of_retries));
    consumers.fold((0, 0), |sum, one| {
        (
            sum.0.saturating_add(one.pending),
            sum.1.saturating_add(one.ack_pending),
        )
    })
}

fn no_lease(state: &SubscriberState, seen: &Seen) -> Option<SubscriberIssue> {
    let mut instances = state.instances.iter();
    let stands_by = |instance: &Instance| instance.activity == Activity::Standby;
    let lease = seen.lease.filter(|_| !state.instances.is_empty())?;
    if !instances.all(stands_by) || seen.now - lease.written_at < LEASE {
        return None;
    }
    let (count, at) = (state.instances.len(), second(lease.written_at));
    let cause =
        format!("all {count} instances stand by, and none has renewed the lease since {at}");
    let issue = SubscriberIssue::stuck(Kind::NoLease, cause);
    Some(issue.since(Some(lease.written_at)).cure(
        "see in their logs why the lease cannot be written; the bucket TIDINGS may be full, or a user may lack a \
         permission",
    ))
}

/// A consumer at its limit of ack pending messages gets no further messages.
fn full(consumer: &SubscriberConsumer) -> Option<SubscriberIssue> {
    let most = consumer.config.get("max_ack_pending")?.as_u64()?;
    if most == 0 || consumer.ack_pending < most || consumer.pending == 0 {
        return None;
    }
    let cause = format!(
        "{} deliveries of {} are not acknowledged, and the server sends no more (max_ack_pending)",
        consumer.ack_pending, consumer.stream
    );
    Some(
        SubscriberIssue::stuck(Kind::AckPendingFull, cause)
            .since(consumer.last_delivery_at)
            .cure(
                "find out which other clients pull from the consumer; deliveries that a lost process had are \
                 redelivered after 30 s",
            ),
    )
}

/// Retries that the server should have delivered.
fn late(state: &SubscriberState, seen: &Seen) -> Option<SubscriberIssue> {
    let next = state.retries.as_ref()?.next_at?;
    if seen.now - next < LATE {
        return None;
    }
    let at = second(next);
    let cause = format!("retries are due since {at}, and their stream does not deliver them");
    Some(
        SubscriberIssue::stuck(Kind::RetriesLate, cause)
            .since(Some(next))
            .cure("tidings streams apply, which allows schedules in RETRIES; else restart its nats-server"),
    )
}

/// A worker computes the time of a retry by its own clock, and the server waits by its own.
fn clocks(state: &SubscriberState, seen: &Seen) -> Vec<SubscriberIssue> {
    let differ = seen
        .clocks
        .iter()
        .filter(|(_, ahead)| ahead.abs() > CLOCKS_DIFFER);
    let told = differ.filter_map(|(id, ahead)| {
        let instance = state.instances.iter().find(|one| one.id == *id)?;
        let (seconds, place) = (ahead.num_seconds().abs(), place(instance));
        let (way, when) = match *ahead > TimeDelta::zero() {
            true => ("ahead of", "that much too late"),
            false => ("behind", "too early"),
        };
        let cause = format!(
            "the clock of {place} is {seconds} s {way} that of the nats-server: its retries are delivered {when}"
        );
        Some(SubscriberIssue::minor(Kind::Clock, cause).cure("synchronise both clocks (NTP)"))
    });
    told.collect()
}

fn place(instance: &Instance) -> String {
    format!("process {} on {}", instance.pid, instance.host)
}

fn second(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests;
