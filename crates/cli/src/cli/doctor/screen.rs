//! A verdict as text for people: at most three lines a finding, then what was not seen, and what is well. Never judges.

use serde_json::Value;
use tidings::{
    doctor::Unseen,
    judge::{Finding, Verdict, Well, WellOutbox},
};

use crate::{
    cli::output::{printable, second},
    config::{Config, without_passwords},
};

/// Where the text of a line begins.
const INDENT: &str = "          ";

/// The screen.
pub(super) fn text(config: &Config, verdict: &Verdict, code: u8) -> String {
    let mut lines = vec![printable(&format!(
        "tidings {}   database {}   NATS {}   {}",
        env!("CARGO_PKG_VERSION"),
        config.database,
        servers(config),
        second(verdict.at),
    ))];
    lines.push(String::new());
    lines.extend(verdict.findings.iter().flat_map(finding));
    if !verdict.findings.is_empty() {
        lines.push(String::new());
    }
    lines.extend(verdict.unseen.iter().flat_map(unseen));
    lines.push(format!("well      {}", printable(&well(&verdict.well))));
    lines.push(format!("exit code {code}: {}", verdict.status));
    lines.join("\n")
}

/// The configured servers, without secrets.
pub(super) fn servers(config: &Config) -> String {
    let servers = config.nats.servers.iter();
    let servers: Vec<String> = servers.map(|url| without_passwords(url)).collect();
    servers.join(",")
}

fn finding(finding: &Finding) -> [String; 3] {
    let Finding {
        status,
        component,
        of,
        kind,
        cause,
        cure,
        ..
    } = finding;
    let place = finding.facts.get("place").and_then(Value::as_str);
    let place = place.map_or_else(String::new, |place| format!(", {place}"));
    let what = format!("{component} {of}{place}");
    let lasts = finding
        .for_s
        .map(|seconds| format!("for {}", duration(seconds)));
    let first = format!(
        "{:<10}{what:<30}  {:<16}  {kind}{}",
        status.as_str().to_uppercase(),
        lasts.unwrap_or_default(),
        facts(finding),
    );
    let mut cure = cure.clone();
    if let Some(command) = finding
        .command
        .as_ref()
        .filter(|command| !cure.contains(*command))
    {
        cure = format!("{cure}: {command}");
    }
    if let Some(runbook) = finding.runbook {
        cure = format!("{cure}   runbook: {runbook}");
    }
    [
        printable(&first),
        format!("{INDENT}because  {}", printable(cause)),
        format!("{INDENT}do       {}", printable(&cure)),
    ]
}

/// The figures of a finding, in words.
fn facts(finding: &Finding) -> String {
    let facts = finding.facts.iter().filter(|(name, _)| **name != "place");
    let told = facts.map(|(name, value)| {
        let figure = match (name.strip_suffix("_s"), value.as_f64(), value) {
            #[allow(clippy::cast_possible_truncation)] // saturates
            (Some(name), Some(seconds), _) => {
                return format!("{name} {}", duration(seconds as i64));
            }
            (_, _, Value::String(text)) => text.clone(),
            (_, _, value) => value.to_string(),
        };
        format!("{} {figure}", name.replace('_', " "))
    });
    let told: Vec<String> = told.collect();
    match told.is_empty() {
        true => String::new(),
        false => format!(": {}", told.join(", ")),
    }
}

fn unseen(unseen: &Unseen) -> [String; 2] {
    let Unseen {
        what,
        kind,
        why,
        cure,
        ..
    } = unseen;
    [
        printable(&format!("not seen  {what} ({kind}): {why}")),
        format!("{INDENT}do       {}", printable(cure)),
    ]
}

fn well(well: &Well) -> String {
    let subscribers = match well.all_subscribers {
        0 => None,
        all => Some(format!(
            "subscribers {} of {all} ({} instances)",
            well.subscribers, well.instances
        )),
    };
    let told: Vec<String> = well.outbox.iter().map(outbox).chain(subscribers).collect();
    match told.is_empty() {
        true => "-".to_owned(),
        false => told.join("   "),
    }
}

fn outbox(well: &WellOutbox) -> String {
    let lease = match &well.owner {
        Some(owner) => format!("lease of {owner} (epoch {})", well.epoch),
        None => "no relay has the lease".to_owned(),
    };
    #[allow(clippy::cast_possible_truncation)] // saturates
    let next = match well.next_due_s {
        Some(seconds) if seconds >= 0.0 => format!(" (next in {})", duration(seconds as i64)),
        Some(_) => " (next is due)".to_owned(),
        None => String::new(),
    };
    format!(
        "outbox: {lease}, backlog {}, {} parked, {} delayed{next}",
        well.backlog, well.parked, well.delayed
    )
}

/// A duration in its two largest units.
fn duration(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn a_duration_has_two_units() {
        for (seconds, text) in [
            (-1, "0 s"),
            (59, "59 s"),
            (141, "2 min 21 s"),
            (10_860, "3 h 1 min"),
            (180_000, "2 d 2 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
