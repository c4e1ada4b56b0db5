//! Judges one process by its own figures: whether it is alive, and whether each of its parts is ready. Progress counts,
//! and not connections: a part is stuck when it has work and completes none.

mod relay;
mod subscriber;
#[cfg(test)]
mod tests;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    Health, IssueKind, Unseen,
    finding::{Component, Finding},
};
use crate::{
    policy::start::shifted,
    process::figures::{Phase, ProcessFigures, RuntimeFigures},
};

/// A runtime that has run no task for longer than this is dead: only a restart helps.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(30);

/// What the figures of a process mean.
#[derive(Debug, Clone)]
pub(crate) struct ProcessVerdict {
    /// The worst of the parts; unknown when something could not be seen and nothing worse is known.
    pub(crate) status: Health,
    pub(crate) at: DateTime<Utc>,
    /// The process as a whole comes first.
    pub(crate) parts: Vec<Part>,
    /// What cannot be seen from here.
    pub(crate) unseen: Vec<Unseen>,
}

/// One part of a process.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) component: Component,
    /// The schema of the outbox, or the name of the subscriber.
    pub(crate) of: String,
    pub(crate) status: Health,
    /// Why it is not well.
    pub(crate) finding: Option<Finding>,
    /// Its figures.
    pub(crate) progress: Vec<(&'static str, serde_json::Value)>,
}

/// Judges a process. A part is stuck when it has work and makes no progress for `stuck_after`.
pub(crate) fn judge_process(figures: &ProcessFigures, stuck_after: Duration) -> ProcessVerdict {
    let judging = Judging {
        at: figures.at,
        phase: figures.phase,
        runtime: &figures.runtime,
        stuck_after,
    };
    let mut parts = vec![whole(figures, &judging)];
    parts.extend(figures.relays.iter().map(|one| relay::part(one, &judging)));
    let subscribers = figures.subscribers.iter();
    parts.extend(subscribers.map(|one| subscriber::part(one, &judging)));
    let mut unseen: Vec<Unseen> = Vec::new();
    unseen.extend(figures.relays.iter().filter_map(relay::unseen));
    unseen.extend(figures.subscribers.iter().filter_map(subscriber::unseen));
    let worst = parts.iter().map(|part| part.status).max();
    let unknown = (!unseen.is_empty()).then_some(Health::Unknown);
    ProcessVerdict {
        status: worst.max(unknown).unwrap_or(Health::Ok),
        at: figures.at,
        parts,
        unseen,
    }
}

/// Why a process is not alive and needs a restart; empty when it is alive. The state of NATS and of the database does not
/// count: a restart cures neither, and loses what is in flight.
pub(crate) fn not_alive(figures: &ProcessFigures) -> Vec<String> {
    let RuntimeFigures { silent, handlers } = &figures.runtime;
    let blocked = (*silent > DEAD_AFTER).then(|| blocked_text(*silent, handlers));
    let ended = figures.ended_tasks.iter();
    let ended = ended.map(|task| format!("the task {task} has ended"));
    blocked.into_iter().chain(ended).collect()
}

/// What is common to all parts of a process.
struct Judging<'a> {
    at: DateTime<Utc>,
    phase: Phase,
    runtime: &'a RuntimeFigures,
    stuck_after: Duration,
}

impl Judging<'_> {
    /// What holds for every part: the process drains, or its runtime runs no task.
    fn of_process(&self, (component, of): (Component, &str)) -> Option<(Health, Option<Finding>)> {
        if self.phase == Phase::Draining {
            return Some((Health::Draining, None));
        }
        let RuntimeFigures { silent, handlers } = self.runtime;
        if *silent < self.stuck_after {
            return None;
        }
        let cause = blocked_text(*silent, handlers);
        let finding = self
            .stuck((component, of), IssueKind::RuntimeBlocked, *silent, cause)
            .cure(
                "restart the process; use tokio::task::spawn_blocking for work that does not await",
            );
        Some((Health::Stuck, Some(finding)))
    }

    fn stuck(
        &self,
        of: (Component, &str),
        kind: IssueKind,
        age: Duration,
        cause: impl Into<String>,
    ) -> Finding {
        self.finding(of, kind, Health::Stuck, cause)
            .since(Some(self.since(age)), self.at)
    }

    fn finding(
        &self,
        of: (Component, &str),
        kind: IssueKind,
        status: Health,
        cause: impl Into<String>,
    ) -> Finding {
        Finding::new(of, kind, status, cause)
    }

    /// The moment that is so old.
    fn since(&self, age: Duration) -> DateTime<Utc> {
        let age = TimeDelta::from_std(age).unwrap_or(TimeDelta::MAX);
        shifted(self.at, -age)
    }
}

fn blocked_text(silent: Duration, handlers: &str) -> String {
    let seconds = silent.as_secs();
    match handlers.is_empty() {
        true => format!("the runtime of the process has run no task for {seconds} s"),
        false => format!(
            "the runtime of the process has run no task for {seconds} s: handlers block its threads: {handlers}"
        ),
    }
}

/// The process as a whole.
fn whole(figures: &ProcessFigures, judging: &Judging<'_>) -> Part {
    let of = (Component::Process, "process");
    let refused = figures.refusals.iter().map(|refusal| {
        judging
            .finding(of, refusal.kind, Health::Refused, &*refusal.cause)
            .cure(&*refusal.cure)
    });
    let ended = (!figures.ended_tasks.is_empty()).then(|| {
        let cause = format!("tasks have ended: {}", figures.ended_tasks.join(", "));
        let kind = IssueKind::TaskEnded;
        judging
            .finding(of, kind, Health::Stuck, cause)
            .cure("restart the process; its log says why they ended")
    });
    let found = refused.chain(ended).next();
    let (status, finding) = match (judging.of_process(of), found) {
        (_, Some(found)) => (found.status, Some(found)),
        (Some(of_process), None) => of_process,
        (None, None) if figures.phase == Phase::Starting => (Health::Starting, None),
        (None, None) => (Health::Ok, None),
    };
    Part {
        component: Component::Process,
        of: String::new(),
        status,
        finding,
        progress: Vec::new(),
    }
}

impl Part {
    fn new((component, of): (Component, &str), status: Health, finding: Option<Finding>) -> Self {
        Self {
            component,
            of: of.to_owned(),
            status,
            finding,
            progress: Vec::new(),
        }
    }

    fn progress(mut self, progress: Vec<(&'static str, serde_json::Value)>) -> Self {
        self.progress = progress;
        self.progress.retain(|(_, value)| !value.is_null());
        self
    }

    /// Whether it would serve once it is set up: all that a deployment has to wait for.
    pub(crate) fn is_started(&self) -> bool {
        !matches!(
            self.status,
            Health::Starting | Health::Refused | Health::Draining
        )
    }

    /// One line for people and probes.
    pub(crate) fn line(&self) -> String {
        let (component, of, status) = (self.component, &self.of, self.status);
        let of = match of.is_empty() {
            true => String::new(),
            false => format!(" {of}"),
        };
        let Some(finding) = &self.finding else {
            return format!("{component}{of}: {status}");
        };
        let lasts = finding.for_s.map(|s| format!(" for {s} s"));
        let lasts = lasts.unwrap_or_default();
        let Finding { cause, cure, .. } = finding;
        let line = format!("{component}{of}: {status}{lasts}: {cause}; try: {cure}");
        line.replace(['\n', '\r'], " ")
    }
}
