//! Every metric that rules, board, documents or manifests name is one that Tidings tells.

use std::collections::{BTreeMap, BTreeSet};

use crate::{files, no_more, text};

/// The list that is generated from the code.
const REFERENCE: &str = "docs/reference/metrics.md";
/// Words that begin like a metric and are none: a setting of Postgres.
const OTHERS: &[&str] = &["tidings_copy", "tidings_otel"];

/// The metrics with their labels, as the rows of the reference list them.
fn told() -> Metrics {
    let metrics = rows(&text(REFERENCE));
    assert!(metrics.len() > 40, "{REFERENCE} lists only {metrics:?}");
    metrics
}

type Metrics = BTreeMap<String, BTreeSet<String>>;

fn rows(reference: &str) -> Metrics {
    let rows = reference
        .lines()
        .filter(|line| line.starts_with("| `tidings_"));
    let rows = rows.map(|row| {
        let mut cells = row.split(" | ");
        let name = cells.next().unwrap().trim_matches(['|', ' ', '`']);
        let labels = cells.nth(1).unwrap_or_default().split('`');
        let labels = labels.skip(1).step_by(2).map(str::to_owned);
        (name.to_owned(), labels.collect())
    });
    rows.collect()
}

/// The words of a text that are names of metrics.
fn names(text: &str) -> impl Iterator<Item = String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("tidings_"));
    names.map(str::to_owned)
}

/// Without what a histogram adds to its name.
fn family(name: &str) -> &str {
    let ends = ["_bucket", "_sum", "_count"];
    let family = ends.iter().find_map(|end| name.strip_suffix(end));
    family.unwrap_or(name)
}

fn unknown(text: &str, told: &Metrics) -> Vec<String> {
    let named = names(text).filter(|name| !OTHERS.contains(&name.as_str()));
    let is_told = |name: &String| told.contains_key(name) || told.contains_key(family(name));
    let names = named.filter(|name| !is_told(name));
    names.chain(unknown_labels(text, told)).collect()
}

/// The labels that a query selects by and that the metric does not have: Prometheus finds nothing then, and says nothing.
fn unknown_labels(text: &str, told: &Metrics) -> Vec<String> {
    // Of the scrape, and of a histogram.
    const ALWAYS: &[&str] = &["instance", "job", "le"];
    let mut unknown = Vec::new();
    for (at, _) in text.match_indices('{') {
        let before = &text[..at];
        let begin = before.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let name = &before[begin.map_or(0, |begin| begin + 1)..];
        let Some(labels) = told.get(name).or_else(|| told.get(family(name))) else {
            continue;
        };
        let Some((selector, _)) = text[at + 1..].split_once('}') else {
            continue;
        };
        // Outside of quotes, which the JSON of the board escapes.
        let selector = selector.replace("\\\"", "\"");
        let words = selector.split('"').step_by(2);
        let words = words.map(|word| word.trim_matches([',', ' ', '=', '!', '~']));
        for label in words.filter(|word| !word.is_empty()) {
            if !labels.contains(label) && !ALWAYS.contains(&label) {
                unknown.push(format!("{name}{{{label}}}"));
            }
        }
    }
    unknown
}

#[test]
fn every_metric_that_is_named_exists() {
    let told = told();
    let folders: [(&str, &[&str]); 6] = [
        ("deploy/prometheus", &[".yml"]),
        ("deploy/grafana", &[".json"]),
        ("deploy/kubernetes", &[".yaml"]),
        ("docs/operate", &[".md"]),
        ("docs/runbooks", &[".md"]),
        ("docs/guide", &[".md"]),
    ];
    let mut broken = Vec::new();
    for path in folders
        .iter()
        .flat_map(|(folder, ends)| files(folder, ends))
    {
        // A block of code may name crates, such as tidings_events.
        let text = match path.ends_with(".md") {
            true => prose(&text(&path)),
            false => text(&path),
        };
        let unknown = unknown(&text, &told).into_iter();
        broken.extend(unknown.map(|name| format!("{path}: {REFERENCE} has no {name}")));
    }
    no_more(&broken);
}

/// A document without its blocks of code, but with its queries.
fn prose(text: &str) -> String {
    let parts = text.split("```").enumerate();
    let read = parts.filter(|(at, part)| at % 2 == 0 || part.starts_with("promql"));
    read.map(|(_, part)| part).collect()
}

#[test]
fn every_recorded_series_that_is_named_is_recorded() {
    let rules = text("deploy/prometheus/tidings.rules.yml");
    let recorded = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- record: "));
    let recorded: BTreeSet<&str> = recorded.collect();
    let board = text("deploy/grafana/tidings.json");
    for text in [&rules, &board] {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && !"_:".contains(c));
        for word in words.filter(|word| word.starts_with("tidings:")) {
            assert!(recorded.contains(word), "no rule records {word}");
        }
    }
}

#[test]
fn a_metric_that_does_not_exist_is_found() {
    let told = rows(
        "| `tidings_a_total` | counter | `name` `path` | A |\n| `tidings_b_seconds` | histogram | | B |\nx",
    );
    let text = "rate(tidings_a_total[1m]) / tidings_b_seconds_bucket + `tidings_c` tidings:d:e";
    assert_eq!(unknown(text, &told), ["tidings_c"]);
    let text =
        r#"tidings_a_total{name="x",path=~"$p"} tidings_b_seconds_sum{name!=\"a\", instance="b"}"#;
    assert_eq!(unknown(text, &told), ["tidings_b_seconds_sum{name}"]);
    assert_eq!(prose("a ```rust\nb``` c ```promql\nd```"), "a  c promql\nd");
}
