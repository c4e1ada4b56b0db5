//! The issues of a subscriber, derived from what was read about it. Values in, issues out: sends no request.

mod instances;

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Serialize;

use super::{SubscriberConsumer, SubscriberState};
use crate::{
    nats::{LeaseSign, starts_beyond, subjects},
    policy::issue_kind::IssueKind as Kind,
};

/// How late the server may deliver a retry.
const LATE: TimeDelta = TimeDelta::seconds(60);

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
    /// Whether the server knows a client that listens for queries.
    pub(super) is_listened_to: bool,
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
    /// The issues of its replays.
    pub(super) replays: Vec<SubscriberIssue>,
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

    pub(super) fn minor(kind: Kind, cause: impl Into<String>) -> Self {
        Self {
            is_stuck: false,
            ..Self::stuck(kind, cause)
        }
    }

    pub(super) fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }

    pub(super) fn since(mut self, since: Option<DateTime<Utc>>) -> Self {
        self.since = since;
        self
    }
}

/// All issues; those that hold events up come first.
pub(super) fn issues(state: &SubscriberState, seen: &Seen) -> Vec<SubscriberIssue> {
    let mut issues = streams(state, seen);
    issues.extend(consumers(state));
    issues.extend(instances::issues(state, seen));
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
    issues.extend(seen.replays.iter().cloned());
    issues.extend(instances::clocks(state, seen));
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

fn second(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests;
