//! The issues of the instances of a subscriber: that none answers, and what those that answer report. Values in, issues
//! out.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Kind, Seen, SubscriberIssue, SubscriberState, second};
use crate::{
    instance::{Activity, FailingKey, Instance},
    nats::filters,
};

/// A lease that was not renewed for this long is free, failover included.
const LEASE: TimeDelta = TimeDelta::seconds(10);
/// By how much the clocks of a worker and a server may differ.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::seconds(5);
/// Slots that are all taken for this long are reported, and for the second time they are an issue, unless the code says
/// otherwise.
const TAKEN_MS: u64 = 10_000;
const LONGEST_TAKEN_MS: u64 = 60_000;

pub(super) fn issues(state: &SubscriberState, seen: &Seen) -> Vec<SubscriberIssue> {
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
    issues.extend(without_handler(state));
    issues.extend(open_circuit(state));
    issues.extend(slots_taken(state));
    issues.extend(keys_wait(state));
    issues.extend(no_lease(state, seen));
    issues
}

/// No instance is active although events wait. From outside some of the causes look alike: the likely ones come first.
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
    let last = state.last_seen_at.map_or_else(
        || "no instance was ever seen".to_owned(),
        |at| format!("an instance was last seen at {}", second(at)),
    );
    let (cause, cure) = match (seen.is_listened_to, pulls) {
        (true, _) => (
            format!(
                "{waiting}, and no instance answers, though one is connected: its process is frozen (a signal, a \
                 paused container or host), a handler blocks its threads, or its user may not answer; {last}"
            ),
            format!(
                "continue its process, or see its /livez or its log (\"runtime blocked\"), which name the handler, and \
                 restart it; allow it to answer on tidings.status.{name} (allow_responses)"
            ),
        ),
        (false, 0) => (
            format!(
                "{waiting}, and no instance answers or is connected: its process is down, the subscriber is no longer \
                 in the code, its user may not subscribe to tidings.status.{name}, or its host is frozen or cut off \
                 for minutes; {last}"
            ),
            format!(
                "start or restart its worker; allow it to subscribe to tidings.status.{name} and to answer \
                 (allow_responses); or, when the subscriber is gone for good, tidings subscribers remove {name}"
            ),
        ),
        (false, pulls) => (
            format!(
                "{waiting}, and no instance answers, though {pulls} pulls of an instance wait at the server: its \
                 process has ended within the last ten seconds, or its user may not subscribe to \
                 tidings.status.{name}"
            ),
            format!(
                "start its worker, if it has ended; allow it to subscribe to tidings.status.{name} and to answer \
                 (allow_responses)"
            ),
        ),
    };
    let issue = SubscriberIssue::stuck(Kind::NoInstance, cause).cure(cure);
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

/// Names that a consumer delivers and no instance takes: their events wait. Until one arrives it is informative only.
fn without_handler(state: &SubscriberState) -> Option<SubscriberIssue> {
    let cure = format!(
        "deploy an instance that handles them; if none ever will, tidings subscribers prune {}",
        state.name
    );
    let arrived = state.instances.iter().find_map(|instance| {
        let why = instance.unhandled.as_ref()?;
        Some(format!("{}: {why}", place(instance)))
    });
    if let Some(cause) = arrived {
        return Some(SubscriberIssue::stuck(Kind::NameWithoutHandler, cause).cure(cure));
    }
    let is_known = |stream: &str, name: &String| {
        let wants = state.instances.iter().flat_map(|instance| &instance.wants);
        let mut wants = wants.filter(|wanted| wanted.stream == stream);
        wants.any(|wanted| filters(&wanted.settings).contains(name))
    };
    let consumers = state.consumers.iter().filter(|one| !one.is_of_retries);
    let named = consumers.flat_map(|consumer| {
        let names = filters(&consumer.config).into_iter();
        names.filter(|name| !is_known(&consumer.stream, name))
    });
    let named: Vec<String> = named.collect();
    if state.instances.is_empty() || named.is_empty() {
        return None;
    }
    let (names, count) = (named.join(", "), state.instances.len());
    let cause = format!(
        "its consumers deliver {names}, and none of the {count} instances that answer handles that: such an event \
         waits for one that does, and is dead-lettered after an hour"
    );
    Some(SubscriberIssue::minor(Kind::NameWithoutHandler, cause).cure(cure))
}

fn open_circuit(state: &SubscriberState) -> Option<SubscriberIssue> {
    let mut instances = state.instances.iter();
    let instance = instances.find(|one| one.circuit.is_open())?;
    let open = instance.open_circuit.as_ref();
    let probe = open.and_then(|open| open.next_probe_at);
    let probe = probe.map_or_else(String::new, |at| {
        format!("; the next one at {}", second(at))
    });
    let error = open.and_then(|open| open.error.as_ref());
    let error = error.map_or_else(String::new, |error| format!("; the last error: {error}"));
    let cause = format!(
        "{}: the circuit is {}: nearly every attempt failed, so only one event at a time is pulled, as a \
         probe{probe}{error}",
        place(instance),
        instance.circuit
    );
    let issue = SubscriberIssue::stuck(Kind::CircuitOpen, cause).cure(
        "give the handler what it needs; the log of the worker says what failed. The circuit closes by itself",
    );
    Some(issue.since(open.map(|open| open.since)))
}

/// All slots of an instance are taken, and no attempt ends. Handlers may take that long, as long as their timeout.
fn slots_taken(state: &SubscriberState) -> Option<SubscriberIssue> {
    let taken = state.instances.iter().filter_map(|instance| {
        let oldest = instance.oldest_attempt.as_ref()?;
        let lasts = instance
            .last_ended_ms
            .map_or(oldest.for_ms, |ended| ended.min(oldest.for_ms));
        (instance.is_full && lasts >= TAKEN_MS).then_some((instance, oldest, lasts))
    });
    let (instance, oldest, lasts) = taken.max_by_key(|(.., lasts)| *lasts)?;
    let limit = instance
        .stuck_after_ms
        .unwrap_or_else(|| instance.timeout_ms.min(LONGEST_TAKEN_MS));
    let (slots, seconds) = (instance.concurrency, oldest.for_ms / 1_000);
    let cause = format!(
        "{}: all {slots} slots are taken, and no attempt has ended for {} s; the oldest, of {} {}, has run for \
         {seconds} s",
        place(instance),
        lasts / 1_000,
        oldest.name,
        oldest.event
    );
    let issue = match lasts >= limit {
        true => SubscriberIssue::stuck(Kind::SlotsTaken, cause),
        false => SubscriberIssue::minor(Kind::SlotsTaken, cause),
    };
    let since = instance.clock.and_then(|clock| {
        let lasts = TimeDelta::try_milliseconds(i64::try_from(lasts).ok()?)?;
        clock.checked_sub_signed(lasts)
    });
    Some(issue.since(since).cure(
        "check what the handlers wait for; when they may take that long, set .stuck_after of the subscriber, or a higher \
         concurrency",
    ))
}

/// Keys of an ordered subscriber whose first event fails: the others wait. Other keys go on.
fn keys_wait(state: &SubscriberState) -> Option<SubscriberIssue> {
    let waits = state.instances.iter().flat_map(|instance| {
        let failing = instance.failing.iter();
        failing.filter(|key| {
            instance
                .clock
                .is_some_and(|clock| key.has_failed_for_long(clock))
        })
    });
    let waits: Vec<&FailingKey> = waits.collect();
    let (cause, cure) = FailingKey::told(&waits)?;
    let since = waits.iter().map(|key| key.since).min();
    let issue = SubscriberIssue::minor(Kind::KeyWaits, cause).cure(cure);
    Some(issue.since(since))
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

/// A worker computes the time of a retry by its own clock, and the server waits by its own.
pub(super) fn clocks(state: &SubscriberState, seen: &Seen) -> Vec<SubscriberIssue> {
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
