//! The answers in JSON. Never judges.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use super::Health;
use crate::{
    judge::{
        Component, Finding, Health as Status, IssueKind,
        process::{Part, ProcessVerdict, judge_process},
    },
    operations::doctor::Unseen,
    process::{
        Process,
        figures::{ProcessFigures, ServerFigures, SubscriberFigures},
    },
};

impl Health {
    /// The figures of the process; those of none before the worker has begun.
    pub(super) fn figures(&self) -> ProcessFigures {
        match self.known.process.get() {
            Some((process, _)) => process.figures(),
            None => Process::default().figures(),
        }
    }

    pub(super) fn verdict(&self) -> ProcessVerdict {
        judge_process(&self.figures(), self.stuck_after)
    }

    pub(super) fn started_at(&self) -> Option<DateTime<Utc>> {
        self.known.process.get().map(|(_, at)| *at)
    }
}

/// The answer of `/livez?verbose`.
#[derive(Debug, Serialize)]
pub(super) struct Livez {
    alive: bool,
    causes: Vec<String>,
    /// For how long the runtime has run no task.
    silent_s: u64,
    /// The handlers that have not returned.
    #[serde(skip_serializing_if = "String::is_empty")]
    handlers: String,
}

impl Livez {
    pub(super) fn new(figures: &ProcessFigures, causes: Vec<String>) -> Self {
        Self {
            alive: causes.is_empty(),
            causes,
            silent_s: figures.runtime.silent.as_secs(),
            handlers: figures.runtime.handlers.clone(),
        }
    }
}

/// The answer of `/scale/NAME`.
#[derive(Debug, Serialize)]
pub(super) struct Scale {
    subscriber: String,
    /// Pending events, and retries that are due.
    waiting: u64,
    /// The age of the oldest of them.
    oldest_s: f64,
}

impl Scale {
    /// `None` when it is not known. Nothing waits for a paused subscriber: more instances would not help it.
    pub(super) fn of(subscriber: &SubscriberFigures) -> Option<Self> {
        let known = subscriber.server.filter(ServerFigures::are_recent)?;
        let (waiting, oldest) = match subscriber.is_paused {
            true => (0, Duration::ZERO),
            false => (known.pending, known.oldest),
        };
        Some(Self {
            subscriber: subscriber.name.clone(),
            waiting,
            oldest_s: oldest.as_secs_f64(),
        })
    }
}

/// The answer of `/healthz`.
#[derive(Debug, Serialize)]
pub(super) struct Healthz {
    status: Status,
    at: DateTime<Utc>,
    process: About,
    components: Vec<OneComponent>,
    unseen: Vec<Unseen>,
}

#[derive(Debug, Serialize)]
struct About {
    host: String,
    pid: u32,
    version: &'static str,
    started_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Serialize)]
struct OneComponent {
    component: Component,
    #[serde(skip_serializing_if = "Option::is_none")]
    outbox: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    status: Status,
    ready: bool,
    #[serde(flatten)]
    finding: Option<Why>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    progress: BTreeMap<&'static str, Value>,
}

/// A finding, with the fields that `tidings doctor --json` has too.
#[derive(Debug, Serialize)]
struct Why {
    id: String,
    kind: IssueKind,
    since: Option<DateTime<Utc>>,
    for_s: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<Value>,
    cause: String,
    cure: String,
    command: Option<String>,
    runbook: Option<&'static str>,
}

impl Healthz {
    pub(super) fn new(verdict: ProcessVerdict, started_at: Option<DateTime<Utc>>) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self {
            status: whole(verdict.status),
            at: verdict.at,
            process: About {
                host: host.trim().to_owned(),
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION"),
                started_at,
            },
            components: verdict.parts.into_iter().map(component).collect(),
            unseen: verdict.unseen,
        }
    }
}

/// The word for the whole: that all parts are idle, stand by or are paused is well.
fn whole(worst: Status) -> Status {
    match worst {
        Status::Idle | Status::Standby | Status::Paused | Status::Notice => Status::Ok,
        Status::Refused => Status::Stuck,
        worst => worst,
    }
}

fn component(part: Part) -> OneComponent {
    let of = |component: Component| (part.component == component).then(|| part.of.clone());
    OneComponent {
        component: part.component,
        outbox: of(Component::Relay),
        name: of(Component::Subscriber),
        status: part.status,
        ready: part.status.is_ready(),
        finding: part.finding.map(why),
        progress: part.progress.into_iter().collect(),
    }
}

fn why(finding: Finding) -> Why {
    let place = finding.facts.get("place").cloned();
    Why {
        id: finding.id,
        kind: finding.kind,
        since: finding.since,
        for_s: finding.for_s,
        place,
        cause: finding.cause,
        cure: finding.cure,
        command: finding.command,
        runbook: finding.runbook,
    }
}
