//! `tidings streams`: the streams that there should be, and making it so.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use tidings::{Bus, Plan, StreamSpec};

use super::{connect, output, report::Outcome};
use crate::config::{Config, duration};

#[derive(Args)]
pub(super) struct Streams {
    #[command(subcommand)]
    action: Option<Action>,
    /// Print a JSON object a stream
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Action {
    /// Show the configured streams and what of them differs (the default)
    List,
    /// Create and update the streams; what is not configured stays as it is
    Apply {
        /// Only show what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

/// What is done with a plan.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    List,
    Plan,
    Apply,
}

impl Streams {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let mode = match self.action {
            None | Some(Action::List) => Mode::List,
            Some(Action::Apply { dry_run: true }) => Mode::Plan,
            Some(Action::Apply { dry_run: false }) => Mode::Apply,
        };
        let bus = connect(config).await?;
        for spec in wanted(config) {
            let plan = match mode {
                Mode::Apply => bus.apply_stream(&spec).await?,
                Mode::List | Mode::Plan => bus.plan_stream(&spec).await?,
            };
            let limits = bus.silent_limits(&spec.name).await?;
            if self.json {
                output::json(&as_json(&spec, &plan, &limits, mode))?;
            } else {
                let warnings = limits.iter().map(|limit| format!("\n  warning: {limit}"));
                let warnings: String = warnings.collect();
                output::line(as_text(&spec, &plan, mode) + &warnings)?;
            }
        }
        Ok(())
    }
}

/// Creates and updates all streams.
pub(super) async fn apply(bus: &Bus, config: &Config) -> Outcome {
    for spec in wanted(config) {
        bus.apply_stream(&spec).await?;
    }
    Ok(())
}

/// The configured streams, and those that subscribers need.
fn wanted(config: &Config) -> Vec<StreamSpec> {
    let mut wanted = config.streams.clone();
    for needed in StreamSpec::of_subscribers() {
        if !wanted.iter().any(|spec| spec.name == needed.name) {
            wanted.push(needed);
        }
    }
    wanted
}

fn as_text(spec: &StreamSpec, plan: &Plan, mode: Mode) -> String {
    let verdict = match (plan, mode) {
        (Plan::Create, Mode::List) => "missing",
        (Plan::Create, Mode::Plan) => "would be created",
        (Plan::Create, Mode::Apply) => "created",
        (Plan::Update(_), Mode::List) => "differs",
        (Plan::Update(_), Mode::Plan) => "would be updated",
        (Plan::Update(_), Mode::Apply) => "updated",
        _ => "unchanged",
    };
    let mut text = format!("{} ({}): {verdict}", spec.name, subjects(spec).join(", "));
    for (setting, now, wanted) in changes(plan) {
        let (now, wanted) = (shown(setting, now), shown(setting, wanted));
        text += &format!("\n  {setting}: {now} -> {wanted}");
    }
    text
}

fn as_json(spec: &StreamSpec, plan: &Plan, limits: &[String], mode: Mode) -> serde_json::Value {
    let plan_name = match plan {
        Plan::Create => "create",
        Plan::Update(_) => "update",
        _ => "unchanged",
    };
    let change = |(setting, now, wanted): &(String, String, String)| json!({ "setting": setting, "now": now, "wanted": wanted });
    json!({
        "stream": spec.name,
        "subjects": subjects(spec),
        "plan": plan_name,
        "changes": changes(plan).iter().map(change).collect::<Vec<_>>(),
        "warnings": limits,
        "applied": mode == Mode::Apply && *plan != Plan::Unchanged,
    })
}

fn subjects(spec: &StreamSpec) -> Vec<&str> {
    spec.subjects
        .iter()
        .map(|pattern| pattern.as_str())
        .collect()
}

fn changes(plan: &Plan) -> &[(String, String, String)] {
    match plan {
        Plan::Update(changes) => changes,
        _ => &[],
    }
}

/// A setting of the JetStream API in the words of our configuration.
fn shown(setting: &str, value: &str) -> String {
    match (setting, value) {
        ("max_age", "0") | ("max_bytes", "-1") => "no limit".to_owned(),
        ("max_age" | "duplicate_window", nanos) => match nanos.parse() {
            Ok(nanos) => duration::show(Duration::from_nanos(nanos)),
            Err(_) => value.to_owned(),
        },
        _ => value.to_owned(),
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
