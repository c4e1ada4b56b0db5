//! `tidings streams`: shows the configured streams, or creates and updates them. Never deletes one.

use std::{collections::BTreeSet, time::Duration};

use chrono::{TimeDelta, Utc};
use clap::{Args, Subcommand};
use serde_json::json;
use tidings::{
    Bus, StartFrom, StreamSpec,
    event::{Pattern, PatternError},
    nats::{Plan, ReaderError, SettingChange, setting_text},
};

use super::{
    connect,
    consent::Consent,
    output,
    report::{Exit, Outcome, Report},
};
use crate::config::{Config, duration};

#[derive(Args)]
pub(super) struct Streams {
    #[command(subcommand)]
    action: Option<Action>,
    /// Print one JSON object per stream
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Action {
    /// Show the configured streams and how they differ from the existing ones (the default)
    List,
    /// Create and update the streams; settings that are not configured stay as they are. Also creates the bucket
    /// TIDINGS, in which workers keep leases, parked keys and replays
    ///
    /// A stream may take subjects that the configuration does not name: they belong to other services, or are old. They
    /// are removed only with consent on the terminal, or with --yes. The same holds for a `max_age` that removes
    /// events.
    Apply {
        /// Print what would be done, and change nothing
        #[arg(long, conflicts_with = "yes")]
        dry_run: bool,
        #[command(flatten)]
        consent: Consent,
    },
}

/// What is done with a plan.
#[derive(Clone, Copy)]
enum Mode {
    List,
    Plan,
    Apply(Consent),
}

/// The state of a stream, before or after the changes.
struct Found<'a> {
    spec: &'a StreamSpec,
    plan: Plan,
    /// Subjects that are not configured, with their counts of events.
    extra: Vec<(String, u64)>,
    /// The extra subjects were removed.
    is_narrowed: bool,
    /// Reasons why the plan cannot be applied.
    objections: Vec<String>,
    /// The limits by which the stream drops events without an error.
    limits: Vec<String>,
}

impl Streams {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let mode = match self.action {
            None | Some(Action::List) => Mode::List,
            Some(Action::Apply { dry_run: true, .. }) => Mode::Plan,
            Some(Action::Apply { consent, .. }) => Mode::Apply(consent),
        };
        let bus = connect(config).await?;
        let specs = wanted(config);
        if config.streams.is_empty() && !self.json {
            output::note(NO_STREAMS);
        }
        // All streams are checked before any is changed, so that no foreseeable error stops the command half way.
        let mut found = Vec::new();
        for spec in &specs {
            found.push(look(&bus, spec).await?);
        }
        if !matches!(mode, Mode::List) {
            refuse(&found)?;
        }
        for found in &mut found {
            if let Mode::Apply(consent) = mode {
                apply_one(&bus, found, consent).await?;
            }
            match self.json {
                true => output::json(&as_json(found, mode)),
                false => output::line(as_text(found, mode)),
            }?;
        }
        if let Mode::Apply(_) = mode {
            apply_bucket(&bus).await;
        }
        Ok(())
    }
}

/// Refuses a plan that cannot be applied, before anything is changed.
fn refuse(found: &[Found<'_>]) -> Outcome {
    let mut refused = found.iter().filter(|found| !found.objections.is_empty());
    let Some(first) = refused.next() else {
        return Ok(());
    };
    let what = format!(
        "stream {} cannot be created or updated as declared, so nothing is changed",
        first.spec.name
    );
    let mut report = Report::new(Exit::Failed, what);
    for objection in &first.objections {
        report = report.cause(objection);
    }
    for other in refused {
        for objection in &other.objections {
            report = report.cause(format!("stream {}: {objection}", other.spec.name));
        }
    }
    Err(report.cure("change the [[stream]] in tidings.toml; tidings streams list shows the streams of the server"))
}

const NO_STREAMS: &str = "no stream of events is configured: each is a [[stream]] with name and subjects in tidings.toml, \
     or in TIDINGS_STREAM; only the internal streams are checked";

async fn look<'a>(bus: &Bus, spec: &'a StreamSpec) -> Result<Found<'a>, Report> {
    let objections = bus.stream_objections(spec).await?;
    let plan = match objections.is_empty() {
        true => bus.plan_stream(spec).await?,
        false => Plan::Unchanged,
    };
    Ok(Found {
        spec,
        plan,
        extra: bus.extra_subjects(spec).await?,
        is_narrowed: false,
        objections,
        limits: bus.silent_limits(&spec.name).await?,
    })
}

/// Creates or updates a stream, and removes extra subjects with consent.
async fn apply_one(bus: &Bus, found: &mut Found<'_>, consent: Consent) -> Outcome {
    let spec = found.spec;
    if let Some(what) = shortens(bus, found).await?
        && !consent.to(&what)?
    {
        return Err(Report::new(
            Exit::Failed,
            format!("stream {} is not changed", spec.name),
        ));
    }
    found.plan = bus.apply_stream(spec).await?;
    found.limits = bus.silent_limits(&spec.name).await?;
    if found.extra.is_empty() || !consent.is_possible() {
        return Ok(());
    }
    let subjects: Vec<String> = found
        .extra
        .iter()
        .map(|(subject, _)| subject.clone())
        .collect();
    let counts = found.extra.iter().map(counted);
    let counts: Vec<String> = counts.collect();
    let what = format!("stops {} from taking {}", spec.name, counts.join(", "));
    if consent.to(&what)? {
        bus.remove_subjects(&spec.name, &subjects).await?;
        found.is_narrowed = true;
    }
    Ok(())
}

/// Describes what a shorter age removes at once; `None` when it removes nothing.
async fn shortens(bus: &Bus, found: &Found<'_>) -> Result<Option<String>, Report> {
    let is_changed = changes(&found.plan)
        .iter()
        .any(|change| change.setting == "max_age");
    let Some(age) = found.spec.max_age.filter(|_| is_changed) else {
        return Ok(None);
    };
    let name = &found.spec.name;
    let events = match older_than(bus, name, age).await {
        Ok(0) => return Ok(None),
        Ok(count) => output::events(count),
        // The messages of a work queue cannot be read independently of its consumers.
        Err(_) => "all events".to_owned(),
    };
    let age = duration::show(age);
    Ok(Some(format!(
        "removes {events} of {name} that are older than {age}, for good"
    )))
}

/// How many messages of a stream are older than an age.
async fn older_than(bus: &Bus, stream: &str, age: Duration) -> Result<u64, ReaderError> {
    let age = TimeDelta::from_std(age).unwrap_or(TimeDelta::MAX);
    let Some(then) = Utc::now().checked_sub_signed(age) else {
        return Ok(0);
    };
    let all = bus.read(stream, &[], StartFrom::Beginning).await?.pending();
    let newer = bus
        .read(stream, &[], StartFrom::Time(then))
        .await?
        .pending();
    Ok(all.saturating_sub(newer))
}

fn counted((subject, events): &(String, u64)) -> String {
    format!("{subject} ({} stored)", output::events(*events))
}

/// Creates and updates all configured streams, and the given ones.
pub(super) async fn apply(bus: &Bus, config: &Config, more: &[StreamSpec]) -> Outcome {
    for spec in wanted(config).into_iter().chain(more.iter().cloned()) {
        bus.apply_stream(&spec).await?;
    }
    apply_bucket(bus).await;
    Ok(())
}

/// Creates the bucket of the workers. Workers do this too, except one without the permission, which reports that.
async fn apply_bucket(bus: &Bus) {
    if let Err(error) = bus.apply_bucket().await {
        output::note(error);
    }
}

/// The streams that store events: the configured ones, or, without any, all streams of the account except internal
/// streams and buckets.
pub(super) async fn of_events(bus: &Bus, config: &Config) -> Result<BTreeSet<String>, Report> {
    if !config.streams.is_empty() {
        return Ok(config
            .streams
            .iter()
            .map(|spec| spec.name.clone())
            .collect());
    }
    let everything: Pattern = ">"
        .parse()
        .map_err(|error: PatternError| Report::of(Exit::Failed, &error))?;
    let all = bus.streams_taking(&everything).await?.into_iter();
    Ok(all.filter(|name| may_have_events(name)).collect())
}

/// Whether a stream is neither an internal stream nor a bucket.
pub(super) fn may_have_events(name: &str) -> bool {
    let is_of_subscribers = StreamSpec::internal().iter().any(|spec| spec.name == name);
    !is_bucket(name) && !is_of_subscribers
}

/// Whether a stream belongs to a key-value or object store: their clients name it so.
pub(super) fn is_bucket(name: &str) -> bool {
    name.starts_with("KV_") || name.starts_with("OBJ_")
}

/// The configured streams and the internal ones.
fn wanted(config: &Config) -> Vec<StreamSpec> {
    let mut wanted = config.streams.clone();
    for needed in StreamSpec::internal() {
        if !wanted.iter().any(|spec| spec.name == needed.name) {
            wanted.push(needed);
        }
    }
    wanted
}

fn as_text(found: &Found<'_>, mode: Mode) -> String {
    let Found { spec, plan, .. } = found;
    let verdict = match (plan, mode) {
        _ if !found.objections.is_empty() => "cannot be applied",
        (Plan::Create, Mode::List) => "missing",
        (Plan::Update(_), Mode::List) => "differs",
        (Plan::Create, Mode::Apply(_)) => "created",
        (Plan::Update(_), Mode::Apply(_)) => "updated",
        (Plan::Create, _) => "would be created",
        (Plan::Update(_), _) => "would be updated",
        _ if found.is_narrowed => "updated",
        _ => "unchanged",
    };
    let mut text = format!("{} ({}): {verdict}", spec.name, subjects(spec).join(", "));
    for objection in &found.objections {
        text += &format!("\n  {objection}");
    }
    for change in changes(plan) {
        let setting = &change.setting;
        let (now, wanted) = (shown(setting, &change.now), shown(setting, &change.wanted));
        text += &format!("\n  {setting}: {now} -> {wanted}");
    }
    for extra in &found.extra {
        let extra = counted(extra);
        text += &match (found.is_narrowed, mode) {
            (true, _) => format!("\n  no longer takes {extra}"),
            (false, Mode::List) => format!("\n  takes {extra} too, which is not configured"),
            (false, _) => {
                format!("\n  still takes {extra}, which is not configured: --yes removes it")
            }
        };
    }
    for limit in &found.limits {
        text += &format!("\n  warning: {limit}");
    }
    text
}

fn as_json(found: &Found<'_>, mode: Mode) -> serde_json::Value {
    let plan_name = match found.plan {
        Plan::Create => "create",
        Plan::Update(_) => "update",
        _ => "unchanged",
    };
    let extra = |(subject, events): &(String, u64)| json!({ "subject": subject, "events": events });
    let is_applied = matches!(mode, Mode::Apply(_));
    json!({
        "stream": found.spec.name,
        "subjects": subjects(found.spec),
        "plan": plan_name,
        "changes": changes(&found.plan),
        "extra_subjects": found.extra.iter().map(extra).collect::<Vec<_>>(),
        "objections": found.objections,
        "warnings": found.limits,
        "applied": is_applied && (found.plan != Plan::Unchanged || found.is_narrowed),
    })
}

fn subjects(spec: &StreamSpec) -> Vec<&str> {
    spec.subjects
        .iter()
        .map(|pattern| pattern.as_str())
        .collect()
}

fn changes(plan: &Plan) -> &[SettingChange] {
    match plan {
        Plan::Update(changes) => changes,
        _ => &[],
    }
}

/// A setting of the JetStream API, in the words of our configuration.
fn shown(setting: &str, value: &str) -> String {
    match (setting, value) {
        ("max_age", "0") | ("max_bytes", "-1") => "no limit".to_owned(),
        _ => match serde_json::from_str(value) {
            Ok(value) => setting_text(setting, &value),
            Err(_) => value.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_shown_as_they_are_configured() {
        assert_eq!(shown("max_age", "0"), "no limit");
        assert_eq!(shown("max_age", "604800000000000"), "7d");
        assert_eq!(shown("duplicate_window", "unset"), "unset");
        assert_eq!(shown("num_replicas", "3"), "3");
    }
}
