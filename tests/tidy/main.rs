//! The rules of the house that a machine can check, over the sources as text. Each rule is shown a text
//! that breaks it, so that none is there in vain.

#![allow(unreachable_pub)] // one binary
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod errors;
mod links;
mod rules;
mod sizes;
mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use rules::{RULES, RelativePath, Rule, has_foreign_word};
use source::{Source, has_word, lines_where};

#[test]
fn the_sources_keep_the_rules() {
    let mut broken = Vec::new();
    for source in sources() {
        for rule in RULES
            .iter()
            .filter(|rule| (rule.within)(&RelativePath(&source.path)))
        {
            for line in (rule.breaks)(&source) {
                broken.push(format!("{}:{line}: {}", source.path, rule.reason));
            }
        }
    }
    no_more(&broken);
}

#[test]
fn every_rule_finds_what_breaks_it() {
    for Rule {
        reason,
        within,
        breaks,
        example: (path, text),
    } in RULES
    {
        let source = Source::new(path, text);
        assert!(
            within(&RelativePath(path)),
            "{path} is out of reach of: {reason}"
        );
        assert_eq!(
            breaks(&source).len(),
            1,
            "in {path} this is not found: {reason}"
        );
    }
}

#[test]
fn no_file_grows_beyond_its_listed_size() {
    let list = fs::read_to_string(root().join("tests/tidy/sizes.txt")).unwrap();
    let rust: Vec<_> = texts()
        .filter(|(path, _)| path.ends_with(".rs"))
        .map(|(path, text)| (path, text.lines().count()))
        .collect();
    let files = rust.iter().map(|(path, lines)| (&**path, *lines));
    no_more(&sizes::differences(files, &list));
}

#[test]
fn no_text_says_where_or_how_it_was_written() {
    // In pieces, so that this file keeps the rule itself.
    let folders = [
        concat!("/wo", "rk/"),
        concat!("/fa", "rm/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/Us", "ers/"),
    ];
    let words = [concat!("C", "EO"), concat!("closing", " note")];
    let mut broken = Vec::new();
    for (path, text) in texts() {
        let found = lines_where(&text, |line| {
            folders.iter().any(|folder| begins_a_path(line, folder))
                || words.iter().any(|word| has_word(line, word))
        });
        let reason = "a path of one machine, or a word about how the work is done";
        broken.extend(found.iter().map(|line| format!("{path}:{line}: {reason}")));
    }
    no_more(&broken);
}

#[test]
fn every_migration_says_what_it_makes_and_why() {
    let mut broken = Vec::new();
    for (path, text) in texts().filter(|(path, _)| path.ends_with(".sql")) {
        let lines: Vec<&str> = text.lines().collect();
        if !text.starts_with("-- ") {
            broken.push(format!("{path}:1: a migration opens with a comment"));
        }
        for (at, _) in lines
            .iter()
            .enumerate()
            .filter(|(_, line)| line.starts_with("create "))
        {
            if at == 0 || !lines[at - 1].starts_with("-- ") {
                broken.push(format!(
                    "{path}:{}: a comment above says what it is for",
                    at + 1
                ));
            }
        }
    }
    no_more(&broken);
}

#[test]
fn every_compile_error_has_its_expected_text() {
    let mut broken = Vec::new();
    for path in files(&root().join("crates/compile-tests/tests/ui")) {
        let other = match path.ends_with(".rs") {
            true => path.replace(".rs", ".stderr"),
            false => path.replace(".stderr", ".rs"),
        };
        if !root().join(&other).exists() {
            broken.push(format!("{path}:1: {other} is missing"));
        }
    }
    no_more(&broken);
}

#[test]
fn every_event_has_its_golden_and_its_schema() {
    let mut broken = Vec::new();
    for event in tidings_events::ALL {
        let (name, version) = (event.name, event.version);
        for file in [
            format!("golden/{name}.v{version}.txt"),
            format!("schema/{name}.v{version}.json"),
        ] {
            if !root().join("events").join(&file).exists() {
                broken.push(format!("events/{file}:1: missing"));
            }
        }
    }
    no_more(&broken);
}

#[test]
fn every_error_of_the_library_is_documented() {
    const PACKAGES: &[&str] = &[
        "src/",
        "crates/contract/",
        "crates/otel/",
        "crates/test-servers/",
    ];
    let page = fs::read_to_string(root().join("docs/reference/errors.md")).unwrap();
    let mut broken = Vec::new();
    for source in sources() {
        if PACKAGES
            .iter()
            .any(|package| source.path.starts_with(package))
        {
            let found = errors::differences(&page, &source.code);
            broken.extend(found.iter().map(|what| format!("{}: {what}", source.path)));
        }
    }
    no_more(&broken);
}

#[test]
fn the_changelog_knows_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    let changelog = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    assert!(
        changelog.contains(&format!("## [{version}]")),
        "CHANGELOG.md:1: there is no section ## [{version}]"
    );
}

#[test]
fn the_documents_show_the_examples_as_they_are_compiled() {
    for (document, file) in [
        ("README.md", "examples/quickstart.rs"),
        ("docs/guide/testing.md", "examples/ledger.rs"),
    ] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        let example = fs::read_to_string(root().join(file)).unwrap();
        let (_, code) = example.split_once("\n\n").unwrap();
        assert!(
            text.contains(&format!("```rust,no_run\n{code}```")),
            "{document}:1: an example is not {file} below its first paragraph"
        );
    }
}

#[test]
fn the_readme_lists_what_its_program_needs() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let block = |fence: &str| {
        let (_, block) = readme.split_once(fence).unwrap();
        block.split_once("```").unwrap().0
    };
    let program = block("```rust,no_run\n");
    let listed: toml::Table = block("```toml\n").parse().unwrap();
    let listed = listed["dependencies"].as_table().unwrap();
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let workspace: toml::Table = workspace.parse().unwrap();
    let here = &workspace["workspace"]["dependencies"];
    let version = |dependency: &toml::Value| {
        let version = dependency.get("version").unwrap_or(dependency).as_str();
        version.map(str::to_owned)
    };
    for (name, dependency) in listed {
        assert!(program.contains(&format!("{name}::")), "{name} is unused");
        let tested = version(&here[name]);
        let is_tested = version(dependency).is_none_or(|listed| {
            tested
                .as_ref()
                .is_some_and(|tested| tested.starts_with(&listed))
        });
        assert!(is_tested, "{name} is tested in version {tested:?}");
    }
    for line in program.lines() {
        if let Some((name, _)) = line.strip_prefix("use ").and_then(|it| it.split_once("::")) {
            assert!(listed.contains_key(name), "{name} is not listed");
        }
    }
}

#[test]
fn every_link_of_a_document_leads_somewhere() {
    let documents: BTreeMap<_, _> = documents().collect();
    no_more(&links::broken(&documents, |path| {
        root().join(path).exists()
    }));
}

#[test]
fn every_chapter_is_in_the_book() {
    let summary = fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    let chapters = links::linked_files("docs/SUMMARY.md", &summary);
    let missing = documents().filter(|(path, _)| {
        path.starts_with("docs/") && path != "docs/SUMMARY.md" && !chapters.contains(path)
    });
    let broken: Vec<_> = missing
        .map(|(path, _)| format!("{path}:1: docs/SUMMARY.md does not list it"))
        .collect();
    no_more(&broken);
}

#[test]
fn every_file_of_tests_is_in_the_index() {
    const SUITES: &[&str] = &[
        "tests/suite/",
        "crates/cli/tests/cli/",
        "crates/cli/tests/system/",
    ];
    const HELPERS: &[&str] = &["main", "mod", "support", "service"];
    let contributing = fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let (_, index) = contributing.split_once("## Test index").unwrap();
    let (_, index) = index.split_once("|---|").unwrap();
    let named: BTreeSet<&str> = index
        .split('`')
        .map(|name| name.rsplit('/').next().unwrap())
        .collect();
    let mut broken = Vec::new();
    for (path, _) in texts() {
        let file = SUITES.iter().find_map(|suite| path.strip_prefix(suite));
        let Some(file) = file.and_then(|file| file.strip_suffix(".rs")) else {
            continue;
        };
        // A folder that the index names stands for its files.
        let mut parts = file.split('/');
        if !parts.any(|part| named.contains(part) || HELPERS.contains(&part)) {
            broken.push(format!(
                "{path}:1: the index in CONTRIBUTING.md does not name it"
            ));
        }
    }
    no_more(&broken);
}

#[test]
fn every_rust_block_of_the_book_is_compiled() {
    let library = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let chapters = texts().filter(|(path, text)| {
        path.starts_with("docs/") && path.ends_with(".md") && text.contains("\n```rust")
    });
    let broken: Vec<_> = chapters
        .filter(|(path, _)| !library.contains(&format!("include_str!(\"../{path}\")")))
        .map(|(path, _)| format!("{path}:1: src/lib.rs does not include it"))
        .collect();
    no_more(&broken);
}

#[test]
fn the_documents_have_the_words_of_the_field() {
    let written = texts().filter(|(path, _)| {
        let ends = [".md", ".sql", ".toml", ".conf", ".yml"];
        ends.iter().any(|end| path.ends_with(end))
    });
    let mut broken = Vec::new();
    for (path, text) in written {
        let found = lines_where(&text, has_foreign_word);
        let reason = "a word that docs/reference/glossary.md has another one for";
        broken.extend(found.iter().map(|line| format!("{path}:{line}: {reason}")));
    }
    no_more(&broken);
}

fn no_more(broken: &[String]) {
    assert!(
        broken.is_empty(),
        "{} lines break a rule:\n{}",
        broken.len(),
        broken.join("\n")
    );
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether an absolute path begins with a folder; the middle of a path or of a URL does not.
fn begins_a_path(line: &str, folder: &str) -> bool {
    let is_middle = |c: char| c.is_alphanumeric() || "./_-}".contains(c);
    line.match_indices(folder)
        .any(|(at, _)| !line[..at].ends_with(is_middle))
}

/// The Rust files, less these, which are full of what it looks for.
fn sources() -> impl Iterator<Item = Source> {
    let rust =
        texts().filter(|(path, _)| path.ends_with(".rs") && !path.starts_with("tests/tidy/"));
    rust.map(|(path, text)| Source::new(&path, &text))
}

/// The documents in Markdown, with their paths.
fn documents() -> impl Iterator<Item = (String, String)> {
    texts().filter(|(path, _)| path.ends_with(".md"))
}

/// Every text of the repository that is written by hand, with its path.
fn texts() -> impl Iterator<Item = (String, String)> {
    let written = files(root()).into_iter();
    let written = written.filter(|path| !path.ends_with("Cargo.lock"));
    written.filter_map(|path| Some((path.clone(), fs::read_to_string(root().join(path)).ok()?)))
}

/// The files below a folder, in an order that stays.
fn files(folder: &Path) -> Vec<String> {
    const NOT_WRITTEN: &[&str] = &["target", ".git", ".dev", "wip"];
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        // `.git` is a file in a second worktree.
        if NOT_WRITTEN.contains(&&*name) {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            let path = entry.path();
            let path = path.strip_prefix(root()).unwrap();
            found.push(path.to_str().unwrap().to_owned());
        }
    }
    found.sort();
    found
}
