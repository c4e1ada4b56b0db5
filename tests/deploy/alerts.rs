//! The alerts: each says what is wrong, names a command of the program, and a page that exists.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{at, no_more, text, yaml};

const RULES: &str = "deploy/prometheus/tidings.rules.yml";
const CHAPTER: &str = "docs/operate/alerts.md";
const COMMANDS: &str = "docs/reference/cli.md";

/// The alerts of the rules.
fn alerts() -> Vec<Value> {
    let [rules] = &yaml::documents(&text(RULES))[..] else {
        panic!("{RULES} has several documents");
    };
    let groups = rules["groups"].as_array().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
    rules
        .filter(|rule| rule.get("alert").is_some())
        .cloned()
        .collect()
}

fn name(alert: &Value) -> &str {
    alert["alert"].as_str().unwrap()
}

/// Why this is no command of the program, by its reference.
fn fault_of(command: &str, reference: &str) -> Option<String> {
    let mut words = command.split(' ').peekable();
    if words.next() != Some("tidings") {
        return Some("it is no command of the program".to_owned());
    }
    let mut heading = "tidings".to_owned();
    let mut section = "";
    while let Some(word) = words.peek() {
        let longer = format!("{heading} {word}");
        let Some(found) = section_of(reference, &longer) else {
            break;
        };
        (heading, section) = (longer, found);
        words.next();
    }
    let Some(usage) = section.lines().find(|line| line.starts_with(&heading)) else {
        return Some("there is no such command".to_owned());
    };
    if usage.contains("<COMMAND>") {
        return Some(format!("`{heading}` has no such command"));
    }
    let takes_more = usage.replace("[OPTIONS]", "").contains(['<', '[']);
    let mut is_value = false;
    for word in words {
        let is_option = word.starts_with("--");
        if is_option && !section.contains(&format!("| `{word}")) {
            return Some(format!("`{heading}` has no {word}"));
        }
        if !is_option && !is_value && !takes_more {
            return Some(format!("`{heading}` takes no {word}"));
        }
        is_value = is_option && section.contains(&format!("| `{word} <"));
    }
    None
}

/// The section of a command in the reference.
fn section_of<'a>(reference: &'a str, command: &str) -> Option<&'a str> {
    let headings = [format!("\n## {command}\n"), format!("\n### {command}\n")];
    let rest = headings
        .iter()
        .find_map(|heading| Some(reference.split_once(heading)?.1))?;
    Some(rest.split("\n#").next().unwrap())
}

/// Whether a page of the repository exists, and has the heading that is named behind `#`.
fn exists(page: &str) -> bool {
    let (file, anchor) = page.split_once('#').unwrap_or((page, ""));
    let slug = |heading: &str| {
        heading
            .trim_start_matches('#')
            .trim()
            .to_lowercase()
            .replace(' ', "-")
    };
    let has_heading = |text: &str| {
        let mut headings = text.lines().filter(|line| line.starts_with('#'));
        headings.any(|heading| slug(heading) == anchor)
    };
    file.ends_with(".md") && at(file).exists() && (anchor.is_empty() || has_heading(&text(file)))
}

#[test]
fn every_alert_says_what_is_wrong_and_what_to_do() {
    let reference = text(COMMANDS);
    let mut broken = Vec::new();
    for alert in alerts() {
        let said = |field: &str| alert["annotations"][field].as_str().unwrap_or_default();
        let mut says = |fault: String| broken.push(format!("{}: {fault}", name(&alert)));
        if said("summary").is_empty() {
            says("no summary".to_owned());
        }
        let command = said("run").replace("{{ $labels.subscriber }}", "NAME");
        if let Some(fault) = fault_of(&command, &reference) {
            says(format!("{command}: {fault}"));
        }
        if !exists(said("runbook")) {
            says(format!("the page {:?} does not exist", said("runbook")));
        }
        if !["page", "ticket"].contains(&alert["labels"]["severity"].as_str().unwrap_or_default()) {
            says("its severity is neither page nor ticket".to_owned());
        }
    }
    no_more(&broken);
}

#[test]
fn a_command_that_does_not_exist_is_found() {
    let reference = text(COMMANDS);
    let fault = |command| fault_of(command, &reference);
    for command in [
        "tidings doctor",
        "tidings doctor NAME",
        "tidings dead-letters list --groups --subscriber NAME",
        "tidings subscribers resume NAME",
    ] {
        assert_eq!(fault(command), None, "{command}");
    }
    for command in [
        "nats server report",
        "tidings",
        "tidings doctors",
        "tidings verify --mend",
        "tidings outbox status now",
        "tidings outbox accept",
    ] {
        assert!(fault(command).is_some(), "{command}");
    }
    assert!(exists("docs/operate/doctor.md#exit-codes"));
    assert!(!exists("docs/operate/doctor.md#nothing"));
    assert!(!exists("docs/runbooks/nothing.md"));
}

#[test]
fn the_chapter_explains_every_alert() {
    let chapter = text(CHAPTER);
    let rows = chapter
        .lines()
        .filter_map(|line| line.strip_prefix("| `Tidings"));
    let rows = rows.filter_map(|row| row.split_once("` |"));
    let explained: BTreeSet<_> = rows
        .map(|(name, rest)| (format!("Tidings{name}"), severity(rest)))
        .collect();
    let alerts = alerts();
    let told = alerts.iter().map(|alert| {
        let severity = alert["labels"]["severity"].as_str().unwrap();
        (name(alert).to_owned(), severity)
    });
    assert_eq!(told.collect::<BTreeSet<_>>(), explained);
}

fn severity(row: &str) -> &str {
    row.split('|').next().unwrap().trim()
}

#[test]
fn an_alert_has_one_name() {
    let alerts = alerts();
    let names: BTreeSet<_> = alerts.iter().map(name).collect();
    assert_eq!(names.len(), alerts.len());
}
