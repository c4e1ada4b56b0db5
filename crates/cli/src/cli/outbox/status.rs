//! `tidings outbox status`: the state of the outbox. Never changes anything.

use std::{borrow::Cow, time::Duration};

use chrono::{SecondsFormat, Utc};
use clap::Args;
use serde::Serialize;
use tidings::{
    judge::{Finding, judge_outbox, stuck},
    outbox::{Issue, LastBatch, LeaseStatus, Loss, RelayInstance, Status},
};

use crate::{
    cli::{
        connect,
        database::{Database, with_outbox},
        judged, output,
        report::{Exit, Outcome, Report},
    },
    config::Config,
};

/// The most time that connecting to NATS may take before asking the relays.
const PATIENCE: Duration = Duration::from_secs(2);
/// The cure for a loss.
const REPAIR: &str = "tidings verify --repair, or tidings outbox acknowledge-loss STREAM";

#[derive(Args)]
pub(super) struct ShowStatus {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The output.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    status: &'a Status,
    /// What is stuck, lost, not relayed, or waits for a decision.
    stuck: &'a [Issue],
    /// What the doctor finds; one that is more than a notice ends the command with 1.
    findings: &'a [Finding],
    /// The relays that answered over NATS; null when they were not asked, or NATS could not be reached.
    relays: &'a Option<Vec<RelayInstance>>,
}

impl ShowStatus {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let status = match read(config).await {
            Ok(status) => status,
            Err(report) => return Err(said_by_relays(config, report).await),
        };
        let relays = match status.is_relayed() {
            true => None,
            false => ask(config).await,
        };
        let (answered, at) = (relays.as_deref().unwrap_or_default(), Utc::now());
        let stuck = stuck(&status, answered, at);
        let verdict = judge_outbox(&config.schema, &status, answered, at);
        match self.json {
            true => output::json(&Shown {
                status: &status,
                stuck: &stuck,
                findings: &verdict.findings,
                relays: &relays,
            })?,
            false => output::table(&rows(&status, relays.as_deref()))?,
        }
        match judged::worst(&verdict) {
            Some(worst) => Err(report(worst, &status.losses, &stuck)),
            None => Ok(()),
        }
    }
}

/// Names a loss first, then what is stuck, else the worst finding.
fn report(worst: &Finding, losses: &[Loss], stuck: &[Issue]) -> Report {
    let (what, cure) = match (losses, stuck) {
        ([Loss { stream, state, .. }, ..], _) => (format!("stream {stream} {state}"), REPAIR),
        (_, [first, more @ ..]) => {
            let Issue {
                place, cause, cure, ..
            } = first;
            let more = match more.len() {
                0 => String::new(),
                more => format!("; and {more} more"),
            };
            (format!("{place}: {cause}{more}"), &**cure)
        }
        (_, []) => (worst.cause.clone(), &*worst.cure),
    };
    Report::new(Exit::Failed, what).cure(cure)
}

async fn read(config: &Config) -> Result<Status, Report> {
    let database = Database::open(config).await?;
    Ok(with_outbox!(&database, outbox => outbox.status().await)?)
}

/// The relays that answer over NATS; `None` when NATS cannot be reached.
async fn ask(config: &Config) -> Option<Vec<RelayInstance>> {
    let connecting = tokio::time::timeout(PATIENCE, connect(config)).await;
    let bus = connecting.ok()?.ok()?;
    RelayInstance::of(&bus, &config.schema).await.ok()
}

/// The issues of a relay that has no lease.
fn cannot_write(relay: &RelayInstance) -> Vec<Issue> {
    match relay.epoch {
        Some(_) => Vec::new(),
        None => relay.issues.clone(),
    }
}

/// Adds the answers of the relays to the report, when the database cannot be read.
async fn said_by_relays(config: &Config, report: Report) -> Report {
    let relays = ask(config).await.unwrap_or_default();
    relays.iter().fold(report, |report, relay| {
        let owner = &relay.owner;
        let said = match &relay.issues[..] {
            [] => format!("the relay {owner} answers, and has no issue"),
            [Issue { cause, cure, .. }, ..] => {
                format!("the relay {owner} answers: {cause}; try: {cure}")
            }
        };
        report.cause(said)
    })
}

fn rows(status: &Status, relays: Option<&[RelayInstance]>) -> Vec<[String; 2]> {
    let oldest = status.oldest_unpublished_seconds;
    let mut rows = vec![
        ["backlog".into(), output::events(status.backlog)],
        ["oldest".into(), oldest.map_or_else(|| "-".into(), seconds)],
        [
            "relay".into(),
            relay(&status.lease, relays.unwrap_or_default()),
        ],
        ["last batch".into(), last_batch(status.last_batch.as_ref())],
        ["parked".into(), parked(status)],
        ["delayed".into(), delayed(status)],
    ];
    rows.extend(
        status
            .nats
            .iter()
            .map(|nats| ["nats".into(), nats.to_string()]),
    );
    let issues = issues(status, relays.unwrap_or_default());
    let issues = issues.iter();
    rows.extend(issues.map(|issue| ["issue".into(), self::issue(issue)]));
    let stands_still = status.stands_still.then(|| {
        let text =
            "a relay has the lease, events wait, and none is confirmed; try: see the log of the relay";
        ["stuck".into(), text.into()]
    });
    rows.extend(stands_still);
    rows.extend(status.losses.iter().map(|loss| ["lost".into(), lost(loss)]));
    rows.extend(
        status
            .held_slots
            .iter()
            .map(|slot| ["held slot".into(), slot.to_string()]),
    );
    rows.extend(status.refuses.clone().map(|why| ["refuses".into(), why]));
    rows
}

/// The issues of the relay: those in the database and those that relays answer with, each one once.
fn issues<'a>(status: &'a Status, answered: &[RelayInstance]) -> Vec<Cow<'a, Issue>> {
    let written = status.issues.iter().map(Cow::Borrowed);
    let told = answered.iter().flat_map(cannot_write).map(Cow::Owned);
    let mut issues: Vec<Cow<'_, Issue>> = Vec::new();
    for issue in written.chain(told) {
        let said = |of: &Issue| (of.place.clone(), of.cause.clone(), of.cure.clone());
        if issues.iter().all(|other| said(other) != said(&issue)) {
            issues.push(issue);
        }
    }
    issues
}

/// How many events are parked: how many return by themselves, and how many wait for a decision and since when.
fn parked(status: &Status) -> String {
    let Status {
        parked,
        returning,
        undecided,
        ..
    } = status;
    let count = output::events(*parked);
    let age = status.oldest_undecided_seconds;
    let age = age.map_or_else(String::new, |age| {
        format!(", the oldest for {}", seconds(age))
    });
    let goes_back = match returning {
        0 => "",
        1 => "is restored automatically",
        _ => "are restored automatically",
    };
    let decision = match undecided {
        1 => "waits for a decision",
        _ => "wait for a decision",
    };
    match (returning, undecided) {
        (0, 0) => count,
        (_, 0) => format!("{count}, which {goes_back}"),
        (0, _) => format!("{count}, which {decision}{age}"),
        _ => format!("{count}; {returning} {goes_back}, {undecided} {decision}{age}"),
    }
}

fn issue(issue: &Issue) -> String {
    let Issue {
        place, cause, cure, ..
    } = issue;
    let since = issue.since.to_rfc3339_opts(SecondsFormat::Secs, true);
    format!("{place}, since {since}: {cause}; try: {cure}")
}

fn lost(loss: &Loss) -> String {
    let since = loss.since.to_rfc3339_opts(SecondsFormat::Secs, true);
    format!(
        "stream {}, since {since}: it {}; try: {REPAIR}",
        loss.stream, loss.state
    )
}

fn relay(lease: &LeaseStatus, answered: &[RelayInstance]) -> String {
    let is_live = lease.owner.is_some() && lease.remaining_seconds >= 0.0;
    match (&lease.owner, answered) {
        (_, [first, ..]) if !is_live => {
            let owner = lease.owner.as_deref().unwrap_or(&first.owner);
            let answers = answered.iter().find(|relay| relay.owner == owner);
            let owner = &answers.unwrap_or(first).owner;
            format!("{owner} runs and answers, but does not renew the lease")
        }
        (owner, _) => owner_of(owner.as_deref(), lease),
    }
}

fn owner_of(owner: Option<&str>, lease: &LeaseStatus) -> String {
    match owner {
        None => "none is running".to_owned(),
        Some(owner) if lease.remaining_seconds < 0.0 => {
            let since = seconds(-lease.remaining_seconds);
            format!("{owner} stopped renewing its lease, which ended {since} ago")
        }
        Some(owner) => format!(
            "{owner}, epoch {}, a lease of {} that lasts another {}",
            lease.epoch,
            seconds(lease.lasts_seconds),
            seconds(lease.remaining_seconds)
        ),
    }
}

fn last_batch(batch: Option<&LastBatch>) -> String {
    let Some(batch) = batch else {
        return "none".to_owned();
    };
    format!(
        "{} into {}, up to sequence {}, at {}",
        output::events(batch.events),
        batch.stream,
        batch.last_sequence,
        batch.at.to_rfc3339_opts(SecondsFormat::Millis, true)
    )
}

fn delayed(status: &Status) -> String {
    let count = output::events(status.delayed);
    match status.next_due_seconds {
        None => count,
        Some(wait) if wait < 0.0 => format!("{count}, the next due since {}", seconds(-wait)),
        Some(wait) => format!("{count}, the next in {}", seconds(wait)),
    }
}

fn seconds(seconds: f64) -> String {
    let duration = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
    format!("{:.1} s", duration.as_secs_f64())
}
