//! The links of documents to files and headings of this repository. Reads texts; never asks the network.

use std::collections::{BTreeMap, BTreeSet};

/// The links of documents, by path, that lead to no file and no heading: `path:line: link`.
pub fn broken(documents: &BTreeMap<String, String>, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut broken = Vec::new();
    for (path, text) in documents {
        for (line, link) in links(text) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let file = match file {
                "" => path.clone(),
                file => from_the_root(path, file),
            };
            let has_anchor = |text: &String| anchors(text).contains(anchor);
            let leads = exists(&file)
                && (anchor.is_empty() || documents.get(&file).is_some_and(has_anchor));
            if !leads {
                broken.push(format!("{path}:{line}: {link} leads nowhere"));
            }
        }
    }
    broken
}

/// The files that a document links to, from the root of the repository.
pub fn linked_files(path: &str, text: &str) -> BTreeSet<String> {
    let files = links(text).into_iter().filter_map(|(_, link)| {
        let file = link.split('#').next().unwrap_or(link);
        (!file.is_empty()).then(|| from_the_root(path, file))
    });
    files.collect()
}

/// The links into this repository, with their lines from 1.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut links = Vec::new();
    for (line, prose) in prose(text) {
        // What is in backticks is no link.
        for part in prose.split('`').step_by(2) {
            let targets = part.split("](").skip(1);
            let targets = targets.filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
            let here = targets.filter(|target| !target.contains("://"));
            links.extend(here.map(|target| (line, target)));
        }
    }
    links
}

/// The anchors of headings, as browsers of repositories and mdBook make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for (_, line) in prose(text) {
        let Some((level, heading)) = line.split_once(' ') else {
            continue;
        };
        if level.is_empty() || level.chars().any(|c| c != '#') {
            continue;
        }
        let kept = heading.trim().chars().filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            c => c.is_alphanumeric().then(|| c.to_ascii_lowercase()),
        });
        let anchor: String = kept.collect();
        let again = (1..).map(|n| format!("{anchor}-{n}"));
        let mut names = [anchor.clone()].into_iter().chain(again);
        anchors.extend(names.find(|name| !anchors.contains(name)));
    }
    anchors
}

/// The lines outside blocks of code.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    text.lines().enumerate().filter_map(move |(at, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        (!is_code && !is_fence).then_some((at + 1, line))
    })
}

/// A path that is relative to a document, from the root of the repository.
fn from_the_root(document: &str, path: &str) -> String {
    let mut parts: Vec<&str> = document.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let guide = "\
# Guide

See [one](one.md#two-words), [here](#guide), [out](https://example.org/x.md#y), [root](../README.md).
`[code](no.md)`
```text
[code](no.md)
# no-heading
```
[gone](gone.md) and [also](one.md#three), [below](#no-heading).
";
    let one = "# One\n\n## Two `words`\n\n## Two words\n";
    let documents = [("docs/guide.md", guide), ("docs/one.md", one)];
    let documents = documents.map(|(path, text)| (path.to_owned(), text.to_owned()));
    let exists = |path: &str| ["docs/guide.md", "docs/one.md", "README.md"].contains(&path);
    let found = broken(&documents.into(), exists);
    assert_eq!(
        found,
        [
            "docs/guide.md:9: gone.md leads nowhere",
            "docs/guide.md:9: one.md#three leads nowhere",
            "docs/guide.md:9: #no-heading leads nowhere",
        ]
    );
    assert!(anchors(one).contains("two-words-1"));
    let files = linked_files("docs/guide.md", guide);
    assert!(files.contains("README.md") && files.contains("docs/one.md"));
}
