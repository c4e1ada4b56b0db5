//! The gauges of what runs in this process, read from its registry at each scrape. Never asks a server.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};

use super::{
    families as is,
    sheet::{Label, Sheet},
};
use crate::{
    instance::Activity,
    judge::{Component, Health, process::judge_process},
    ops::STUCK_AFTER,
    policy::{breaker::CircuitState, issue_kind::IssueKind},
    process::figures::{Phase, ProcessFigures, RelayFigures, ServerFigures, SubscriberFigures},
};

/// The most issues that have series.
const MOST_ISSUES: usize = 20;

/// The issues of relays, as their processes and their databases know them: one may be known to both.
#[derive(Default)]
pub(super) struct Issues(BTreeMap<(Label, String, IssueKind), DateTime<Utc>>);

impl Issues {
    pub(super) fn add(
        &mut self,
        outbox: &Label,
        place: &str,
        kind: IssueKind,
        since: DateTime<Utc>,
    ) {
        let of = (outbox.clone(), place.to_owned(), kind);
        let known = self.0.entry(of).or_insert(since);
        *known = since.min(*known);
    }

    pub(super) fn write(self, sheet: &mut Sheet) {
        for ((outbox, place, kind), since) in self.0.into_iter().take(MOST_ISSUES) {
            let labels = [&outbox, &place.into(), &kind.as_str().into()];
            sheet.gauge(&is::ISSUE_SINCE, labels, timestamp(since));
        }
    }
}

/// Writes whether all connections of the process are there, and how often one was lost.
pub(super) fn write_connections(all: &[ProcessFigures], sheet: &mut Sheet) {
    let mut connections = all.iter().flat_map(|one| &one.connections).peekable();
    if connections.peek().is_none() {
        return;
    }
    let (is_connected, lost) = connections.fold((true, 0), |(all, lost), one| {
        (all && one.is_connected, lost + one.lost)
    });
    sheet.gauge(&is::NATS_CONNECTED, [], f64::from(is_connected));
    sheet.count(&is::NATS_DISCONNECTS, [], lost);
}

pub(super) fn write(figures: &ProcessFigures, issues: &mut Issues, sheet: &mut Sheet) {
    for (phase, word) in [
        (Phase::Starting, "starting"),
        (Phase::Running, "running"),
        (Phase::Draining, "draining"),
    ] {
        let is = figures.phase == phase;
        sheet.gauge(&is::WORKER_PHASE, [&word.into()], f64::from(is));
    }
    let silent = figures.runtime.silent.as_secs_f64();
    sheet.gauge(&is::RUNTIME_BLOCKED, [], silent);
    let stuck_after = figures.stuck_after.unwrap_or(STUCK_AFTER);
    for part in judge_process(figures, stuck_after).parts {
        let component: Label = part.component.as_str().into();
        let of = match part.component {
            // It is the only one, and has no name.
            Component::Process => component.clone(),
            _ => part.of.into(),
        };
        for state in STATES {
            let is = f64::from(part.status == state);
            let labels = [&component, &of, &state.as_str().into()];
            sheet.gauge(&is::COMPONENT_STATUS, labels, is);
        }
    }
    for ((check, severity), times) in &figures.concerns {
        let labels = [&check.as_str().into(), &severity.as_str().into()];
        sheet.gauge(&is::PREFLIGHT_FINDINGS, labels, number(*times));
    }
    for relay in &figures.relays {
        write_relay(relay, issues, sheet);
    }
    for subscriber in &figures.subscribers {
        write_subscriber(subscriber, sheet);
    }
}

fn write_relay(relay: &RelayFigures, issues: &mut Issues, sheet: &mut Sheet) {
    let outbox: Label = relay.outbox.as_str().into();
    for (activity, word) in ACTIVITIES {
        let is = f64::from(relay.activity == activity);
        sheet.gauge(&is::RELAY_STATE, [&outbox, &word.into()], is);
    }
    sheet.gauge(&is::RELAY_OPEN, [&outbox], number(relay.open_rows));
    let unmoved = match relay.open_rows {
        0 => Duration::ZERO,
        _ => relay.unmoved,
    };
    sheet.gauge(&is::RELAY_UNMOVED, [&outbox], unmoved.as_secs_f64());
    sheet.count(&is::RELAY_CONFIRMED, [&outbox], relay.confirmed);
    for issue in &relay.issues {
        issues.add(&outbox, &issue.place, issue.kind, issue.since);
    }
}

fn write_subscriber(subscriber: &SubscriberFigures, sheet: &mut Sheet) {
    let of: Label = subscriber.name.as_str().into();
    for (activity, word) in ACTIVITIES {
        let is = f64::from(subscriber.activity == activity);
        sheet.gauge(&is::SUBSCRIBER_STATE, [&of, &word.into()], is);
    }
    for (circuit, word) in [
        (CircuitState::Closed, "closed"),
        (CircuitState::Open, "open"),
        (CircuitState::HalfOpen, "half_open"),
    ] {
        let is = f64::from(subscriber.circuit == circuit);
        sheet.gauge(&is::CIRCUIT, [&of, &word.into()], is);
    }
    let idle = subscriber.idle_with_work.unwrap_or_default();
    let oldest = subscriber.oldest_attempt.unwrap_or_default();
    for (family, value) in [
        (&is::PAUSED, f64::from(subscriber.is_paused)),
        (&is::CONCURRENCY, number(subscriber.concurrency)),
        (&is::RUNNING, number(subscriber.running)),
        (&is::BACKOFF, number(subscriber.resting)),
        (&is::IN_FLIGHT, number(subscriber.in_flight)),
        (&is::IN_FLIGHT_BYTES, number(subscriber.in_flight_bytes)),
        (&is::TIMEOUT, subscriber.timeout.as_secs_f64()),
        (&is::OLDEST_ATTEMPT, oldest.as_secs_f64()),
        (&is::IDLE_WITH_WORK, idle.as_secs_f64()),
    ] {
        sheet.gauge(family, [&of], value);
    }
    if let Some(server) = subscriber.server.filter(ServerFigures::are_recent) {
        #[allow(clippy::cast_precision_loss)] // a stream of 2^53 messages is beyond every disk
        let (pending, ack_pending) = (server.pending as f64, server.ack_pending as f64);
        sheet.gauge(&is::PENDING, [&of], pending);
        sheet.gauge(&is::ACK_PENDING, [&of], ack_pending);
        sheet.gauge(&is::OLDEST_PENDING, [&of], server.oldest.as_secs_f64());
    }
    for (kind, issue) in [
        ("unconfirmed", &subscriber.unconfirmed),
        ("hindrance", &subscriber.hindrance),
        ("lease", &subscriber.leaseless),
    ] {
        let is = f64::from(issue.is_some());
        sheet.gauge(&is::SUBSCRIBER_ISSUE, [&of, &kind.into()], is);
    }
}

/// The states that a part of a process can have.
const STATES: [Health; 12] = [
    Health::Ok,
    Health::Idle,
    Health::Standby,
    Health::Paused,
    Health::Starting,
    Health::Draining,
    Health::Notice,
    Health::Unknown,
    Health::Danger,
    Health::Degraded,
    Health::Stuck,
    Health::Refused,
];

const ACTIVITIES: [(Activity, &str); 4] = [
    (Activity::Starting, "starting"),
    (Activity::Active, "active"),
    (Activity::Standby, "standby"),
    (Activity::Draining, "draining"),
];

pub(super) fn timestamp(at: DateTime<Utc>) -> f64 {
    #[allow(clippy::cast_precision_loss)] // exact until the year 285000
    let millis = at.timestamp_millis() as f64;
    millis / 1000.0
}

#[allow(clippy::cast_precision_loss)] // what is in the memory of one process
fn number(n: usize) -> f64 {
    n as f64
}

#[cfg(feature = "outbox")]
#[cfg(test)]
mod tests;
