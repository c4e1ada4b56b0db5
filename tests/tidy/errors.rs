//! Compares the page of errors with the error types of the public interface. Never what the page says about them.

use std::collections::{BTreeMap, BTreeSet};

/// Variants that carry the error of another part, in whichever enum: the page names them once.
const CARRYING: &[&str] = &[
    "Bus",
    "Outbox",
    "Stream",
    "Read",
    "Subscribers",
    "Verify",
    "Republish",
];

/// What differs between a page and the error types of a source: an error type that the page does not name, or a variant
/// that is only in one of the two.
pub fn differences(page: &str, source: &str) -> Vec<String> {
    let rows = rows(page);
    let mut found = Vec::new();
    for (name, variants) in enums(source) {
        let Some(told) = rows.get(name) else {
            found.push(format!("{name} has no row"));
            continue;
        };
        let own = |variant: &&&str| !CARRYING.contains(*variant);
        let lacking = variants.difference(told).filter(own);
        found.extend(lacking.map(|variant| format!("{name}::{variant} has no row")));
        let unknown = told.difference(&variants);
        found.extend(unknown.map(|variant| format!("there is no {name}::{variant}")));
    }
    let structs = source
        .lines()
        .filter_map(|line| error_after(line, "pub struct "));
    let untold = structs.filter(|name| !page.contains(&format!("`{name}`")));
    found.extend(untold.map(|name| format!("{name} is not on the page")));
    found
}

/// The variants of each error that has a row. A row without an error continues the one above it.
fn rows(page: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut rows: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut errors = Vec::new();
    for line in page.lines() {
        let mut cells = line.split('|').skip(1);
        let (Some(first), Some(second)) = (cells.next(), cells.next()) else {
            errors.clear();
            continue;
        };
        if !first.trim().is_empty() {
            errors = quoted(first).collect();
        }
        for error in &errors {
            let error = error.rsplit("::").next().unwrap_or(error);
            rows.entry(error).or_default().extend(quoted(second));
        }
    }
    rows
}

fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The public error enums of a formatted source, with their variants.
fn enums(source: &str) -> Vec<(&str, BTreeSet<&str>)> {
    let mut lines = source.lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let Some(name) = error_after(line, "pub enum ") else {
            continue;
        };
        let body = lines.by_ref().take_while(|line| *line != "}");
        let variants = body.filter_map(|line| line.strip_prefix("    "));
        let variants = variants.filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
        found.push((name, variants.map(word).collect()));
    }
    found
}

fn error_after<'a>(line: &'a str, start: &str) -> Option<&'a str> {
    let name = word(line.strip_prefix(start)?);
    name.ends_with("Error").then_some(name)
}

fn word(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric())
        .next()
        .unwrap_or_default()
}

#[test]
fn a_variant_that_is_left_out_is_found() {
    let page = "| error | variant | cure |\n|---|---|---|\n| `AError` | `One` | x |\n| | `Two`, `Gone` | y |\n\
                | `BError` | | z |\n";
    let source = "/// A.\npub enum AError {\n    /// 1.\n    One,\n    Two(u8),\n    Three {\n        Four: u8,\n    },\n\
                  }\npub enum BError {\n    Bus(BusError),\n}\npub struct CError;\npub enum DError {\n    One,\n}\n";
    assert_eq!(
        differences(page, source),
        [
            "AError::Three has no row",
            "there is no AError::Gone",
            "DError has no row",
            "CError is not on the page",
        ]
    );
}
