//! The rules of the house that a machine can check, over the sources as text. Each rule is shown a text
//! that breaks it, so that none is there in vain.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::{fs, path::Path};

/// The modules of the library and of the program, bottom first. Each imports from lower lines only.
const LAYERS: &[&[&str]] = &[
    &["failure", "retry"],
    &["outcome"],
    &["context"],
    &["handler"],
    &["subscriber", "lanes", "breaker", "telemetry"],
    &["executor"],
    &["bus"],
    &["background"],
    &["outbox", "worker"],
    &["dead_letter", "replay", "verify"],
    &["ops"],
    &["testing"],
    &["config"],
    &["cli"],
    &["main"],
];

const RULES: &[Rule] = &[
    Rule {
        reason: "async_nats is named in src/bus only (and by the bench, which measures its limit)",
        within: |path| path.is_in(&["src/"]) && !path.is_in(&["src/bus/", "src/cli/bench"]),
        breaks: |source| source.lines_with_word("async_nats"),
        example: ("src/worker.rs", "//! W.\nuse async_nats::Client;\n"),
    },
    Rule {
        reason: "sqlx is named in src/outbox only (and in src/cli, where pools are opened)",
        within: |path| path.is_in(&["src/"]) && !path.is_in(&["src/outbox/", "src/cli/"]),
        breaks: |source| source.lines_with_word("sqlx"),
        example: ("src/worker.rs", "//! W.\nuse sqlx::Pool;\n"),
    },
    Rule {
        reason: "axum is named in src/ops only",
        within: |path| path.is_in(&["src/"]) && !path.is_in(&["src/ops/", "src/ops.rs"]),
        breaks: |source| source.lines_with_word("axum"),
        example: ("src/cli/run.rs", "//! R.\nuse axum::Router;\n"),
    },
    Rule {
        reason: "the environment is read in src/config.rs and src/testing only",
        within: |path| {
            path.is_in(&["src/", "contract/", "events/src/"])
                && !path.is_in(&["src/config.rs", "src/config/", "src/testing/"])
        },
        breaks: |source| source.lines_with(&["std::env", "env::var"]),
        example: (
            "src/bus/mod.rs",
            "//! B.\nfn f() { std::env::var(\"X\"); }\n",
        ),
    },
    Rule {
        reason: "a pure module has no clock, no randomness, no tokio and no I/O",
        within: |path| {
            path.is_in(&[
                "src/failure.rs",
                "src/retry.rs",
                "src/outcome.rs",
                "src/lanes.rs",
                "src/breaker.rs",
                "contract/derive/src/",
            ])
        },
        breaks: |source| {
            source.lines_with(&[
                "tokio",
                "::now()",
                "SystemTime",
                "rand::",
                "RandomState",
                "std::fs",
                "std::net",
                "std::process",
            ])
        },
        example: ("src/retry.rs", "//! R.\nfn f() { Instant::now(); }\n"),
    },
    Rule {
        reason: "imports go down the layers of this test's list, and never up or sideways",
        within: |path| path.is_in(&["src/"]) && !path.is_in(&["src/lib.rs"]),
        breaks: |source| {
            let here = layer(source.module());
            let imports = source.imports_from_the_root().into_iter();
            imports
                .filter(|(_, module)| {
                    module != source.module() && (here.is_none() || layer(module) >= here)
                })
                .map(|(line, _)| line)
                .collect()
        },
        example: (
            "src/outbox/relay.rs",
            "//! R.\nuse crate::{\n    bus::{Bus, pull},\n    worker::Worker,\n};\n",
        ),
    },
    Rule {
        reason: "a module has a place in this test's list of layers",
        within: |path| path.is_in(&["src/"]) && !path.is_in(&["src/lib.rs"]),
        breaks: |source| match layer(source.module()) {
            Some(_) => Vec::new(),
            None => vec![1],
        },
        example: ("src/helpers.rs", "//! H.\n"),
    },
    Rule {
        reason: "the servers for tests are used by tests and by the program only",
        within: |path| {
            path.is_in(&["src/"]) && !path.is_in(&["src/lib.rs", "src/testing/", "src/cli/"])
        },
        breaks: |source| source.lines_with_word("testing"),
        example: ("src/config.rs", "//! C.\nuse tidings::testing::Home;\n"),
    },
    Rule {
        reason: "a file opens with `//!`: what it owns, and what it never does",
        within: |path| {
            path.is_in(&[
                "src/",
                "contract/",
                "events/",
                "tests/",
                "examples/",
                "benches/",
            ])
        },
        breaks: |source| match source.text.starts_with("//! ") {
            true => Vec::new(),
            false => vec![1],
        },
        example: ("src/worker.rs", "use std::fs;\n"),
    },
    Rule {
        reason: "nothing is left to do in the sources",
        within: |_| true,
        breaks: |source| {
            let mut lines = source.lines_with(&["todo!(", "unimplemented!(", "dbg!("]);
            for word in [
                concat!("TO", "DO"),
                concat!("FIX", "ME"),
                concat!("XX", "X"),
            ] {
                lines.extend(lines_where(&source.text, |line| has_word(line, word)));
            }
            lines
        },
        example: (
            "src/worker.rs",
            concat!("//! W.\nfn f() {} // FIX", "ME: g\n"),
        ),
    },
    Rule {
        reason: "a test that is ignored proves nothing",
        within: |_| true,
        breaks: |source| source.lines_with(&["#[ignore"]),
        example: (
            "tests/suite/order.rs",
            "//! O.\n#[ignore]\n#[test]\nfn f() {}\n",
        ),
    },
    Rule {
        reason: "no unwrap or expect outside tests, unless an `allow(clippy::...)` with a reason stands above",
        within: |path| path.is_in(SHIPPED),
        breaks: |source| {
            let allowed = source.allowed_panics();
            let found = source.lines_with(&[".unwrap()", ".expect("]);
            found
                .into_iter()
                .filter(|line| !allowed.contains(line))
                .collect()
        },
        example: (
            "src/worker.rs",
            "//! W.\n#[allow(clippy::unwrap_used)]\nfn f() { g().unwrap() }\n",
        ),
    },
    Rule {
        reason: "a test waits for a condition with a deadline; a sleep says `// real time:` and why",
        within: |path| path.is_in(&["tests/", "contract/tests/", "events/tests/"]),
        breaks: |source| {
            let lines: Vec<&str> = source.text.lines().collect();
            let is_said = |line: usize| {
                let said = |at: usize| lines.get(at).is_some_and(|l| l.contains("// real time: "));
                said(line - 1) || said(line.saturating_sub(2))
            };
            let found = source.lines_with(&["sleep(", "sleep_until("]).into_iter();
            found.filter(|line| !is_said(*line)).collect()
        },
        example: (
            "tests/suite/order.rs",
            "//! O.\nfn f() {\n    sleep(A);\n}\n",
        ),
    },
    Rule {
        reason: "a file of more than 500 lines has two nouns",
        within: |path| path.is_in(SHIPPED),
        breaks: |source| match source.text.lines().count() {
            ..=500 => Vec::new(),
            lines => vec![lines],
        },
        example: ("src/worker.rs", LONG),
    },
];

/// What users get.
const SHIPPED: &[&str] = &[
    "src/",
    "contract/src/",
    "contract/derive/src/",
    "events/src/",
];

/// Five hundred and one lines.
const LONG: &str = {
    const LINES: [u8; 501] = [b'\n'; 501];
    match std::str::from_utf8(&LINES) {
        Ok(text) => text,
        Err(_) => "",
    }
};

/// What holds for every line of some files.
struct Rule {
    reason: &'static str,
    within: fn(&RelativePath<'_>) -> bool,
    /// The lines that break it, from 1.
    breaks: fn(&Source) -> Vec<usize>,
    /// A path and a text that break it.
    example: (&'static str, &'static str),
}

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
fn nobody_reads_where_or_how_this_was_written() {
    // In pieces, so that this file keeps the rule itself.
    let folders = ["wo-rk", "fa-rm", "ro-ot", "ho-me", "Us-ers"];
    let words = ["C-EO", "closing-note-"];
    let mut broken = Vec::new();
    for (path, text) in texts() {
        let found = lines_where(&text, |line| {
            let names_a_folder = |folder: &&str| {
                line.match_indices(&format!("/{}/", folder.replace('-', "")))
                    .any(|(at, _)| starts_a_path(line, at))
            };
            let says_a_word = |word: &&str| has_word(line, word.replace('-', " ").trim_end());
            folders.iter().any(names_a_folder)
                || words[1..].iter().any(says_a_word)
                || has_word(line, &words[0].replace('-', ""))
        });
        broken.extend(
            found
                .iter()
                .map(|line| format!("{path}:{line}: a path of one machine, or a word about work")),
        );
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
fn every_compile_error_has_its_words() {
    let mut broken = Vec::new();
    for path in files(&root().join("tests/ui")) {
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
fn the_changelog_knows_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    let changelog = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    assert!(
        changelog.contains(&format!("## [{version}]")),
        "CHANGELOG.md:1: there is no section ## [{version}]"
    );
}

#[test]
fn the_readme_shows_the_quickstart_as_it_is_compiled() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let example = fs::read_to_string(root().join("examples/quickstart.rs")).unwrap();
    let (_, code) = example.split_once("\n\n").unwrap();
    assert!(
        readme.contains(&format!("```rust,no_run\n{code}```")),
        "README.md:1: the quickstart is not examples/quickstart.rs below its first paragraph"
    );
}

#[test]
fn code_is_told_from_comments_strings_and_tests() {
    let code = |text: &str| Source::new("src/x.rs", text).code;
    assert_eq!(code("a // b \"\n\"c // d\" e"), "a     \n         e");
    assert_eq!(code("/* a /* b */ c */ d"), "                  d");
    assert_eq!(code("r#\"a\"b\"# c '\"' d 'e f"), "          c     d 'e f");
    assert_eq!(code(r#""a\"b" c"#), "       c");
    assert_eq!(
        code("a;\n#[cfg(test)]\nmod t {\n    b;\n}\nc;"),
        "a;\n            \n       \n      \n \nc;"
    );
}

#[test]
fn imports_are_found_in_groups_and_through_parents() {
    let imports = |path, text| Source::new(path, text).imports_from_the_root();
    assert_eq!(
        imports("src/a.rs", "use crate::{\n    b::{C, d},\n    e,\n};"),
        [(2, "b".to_owned()), (3, "e".to_owned())]
    );
    assert_eq!(
        imports("src/a.rs", "use super::b::C;"),
        [(1, "b".to_owned())]
    );
    assert_eq!(imports("src/a/b.rs", "use super::c::D;"), []);
    assert_eq!(
        imports("src/a/b.rs", "use super::super::c::D;"),
        [(1, "c".to_owned())]
    );
    assert_eq!(
        imports("src/a/b.rs", "pub(in crate::a) fn f() {}"),
        [(1, "a".to_owned())]
    );
}

#[test]
fn an_allowed_panic_has_a_reason_and_ends_with_its_item() {
    let text = "fn f() {\n    #[allow(clippy::expect_used)] // why\n    let a = b\n        .expect(\"c\");\n    d.expect(\"e\");\n}\n#[allow(clippy::expect_used)]\nfn g() {}\n";
    assert_eq!(Source::new("src/x.rs", text).allowed_panics(), [3, 4]);
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

/// The place in [`LAYERS`], from the bottom.
fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Whether a folder's name begins there, and is not the middle of a longer path or of a URL.
fn starts_a_path(line: &str, at: usize) -> bool {
    !line[..at].ends_with(|c: char| c.is_alphanumeric() || "./_-}".contains(c))
}

/// A path from the root of the repository, with `/`.
struct RelativePath<'a>(&'a str);

impl RelativePath<'_> {
    fn is_in(&self, starts: &[&str]) -> bool {
        starts.iter().any(|start| self.0.starts_with(start))
    }
}

/// A Rust file.
struct Source {
    path: String,
    text: String,
    /// The text without comments, without what strings hold, and without the module of unit tests; the
    /// lines are the same.
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code = without_tests(without_words(text));
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code,
        }
    }

    /// The top-level module that the file belongs to.
    fn module(&self) -> &str {
        let path = self.path.trim_start_matches("src/");
        path.split(['/', '.']).next().unwrap_or(path)
    }

    /// How many modules deep the file is, from 1.
    fn depth(&self) -> usize {
        let path = self
            .path
            .trim_end_matches("/mod.rs")
            .trim_start_matches("src/");
        path.split('/').count()
    }

    fn lines_with(&self, texts: &[&str]) -> Vec<usize> {
        lines_where(&self.code, |line| {
            texts.iter().any(|text| line.contains(text))
        })
    }

    fn lines_with_word(&self, word: &str) -> Vec<usize> {
        lines_where(&self.code, |line| has_word(line, word))
    }

    /// Every module of this crate's root that is named, with its line.
    fn imports_from_the_root(&self) -> Vec<(usize, String)> {
        let up = "super::".repeat(self.depth());
        let starts = ["crate::", &*up].into_iter().flat_map(|start| {
            let begins = |(at, _): &(usize, &str)| {
                !self.code[..*at]
                    .ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$' || c == ':')
            };
            let found = self.code.match_indices(start).filter(begins);
            found.map(|(at, start)| at + start.len())
        });
        let mut imports = Vec::new();
        for start in starts {
            for at in heads(&self.code, start) {
                let name: String = self.code[at..].chars().take_while(is_of_a_word).collect();
                if name != "self" && name != "super" && !name.is_empty() {
                    imports.push((line_of(&self.code, at), name));
                }
            }
        }
        imports
    }

    /// The lines in which an `#[allow(clippy::...)]` with a reason permits to panic.
    fn allowed_panics(&self) -> Vec<usize> {
        let mut allowed = Vec::new();
        for name in ["unwrap_used", "expect_used"] {
            for (at, _) in self
                .code
                .match_indices(&format!("#[allow(clippy::{name})]"))
            {
                let line = line_of(&self.code, at);
                let says_why = self
                    .text
                    .lines()
                    .nth(line - 1)
                    .is_some_and(|l| l.contains(")] // "));
                if says_why {
                    allowed.extend(line + 1..=line_of(&self.code, end_of_item(&self.code, at)));
                }
            }
        }
        allowed
    }
}

/// The places of the first names in a path or a group of paths, such as `a` and `c` in `{a::b, c}`.
fn heads(code: &str, start: usize) -> Vec<usize> {
    if !code[start..].starts_with('{') {
        return vec![start];
    }
    let (mut heads, mut depth, mut is_new) = (Vec::new(), 0, false);
    for (at, c) in code[start..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            c if is_new && depth == 1 && is_of_a_word(&c) => heads.push(start + at),
            _ => {}
        }
        match depth {
            0 => break,
            1 if c == ',' || c == '{' => is_new = true,
            _ if !c.is_whitespace() => is_new = false,
            _ => {}
        }
    }
    heads
}

/// The text with spaces in place of comments and of what stands in strings.
fn without_words(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |place: usize| chars.get(place).copied().unwrap_or('\0');
    let mut code = String::with_capacity(text.len());
    let mut place = 0;
    while place < chars.len() {
        let end = match (at(place), at(place + 1)) {
            ('/', '/') => ends(&chars, place, |rest| rest[0] == '\n'),
            ('/', '*') => end_of_comment(&chars, place),
            ('"', _) => end_of_string(&chars, place),
            ('r', '"' | '#') if place == 0 || !is_of_a_word(&at(place - 1)) => {
                end_of_raw_string(&chars, place)
            }
            ('\'', '\\') => ends(&chars, place + 3, |rest| rest[0] == '\'') + 1,
            ('\'', _) if at(place + 2) == '\'' => place + 3,
            _ => place,
        };
        if end == place {
            code.push(at(place));
            place += 1;
        }
        for c in &chars[place..end.clamp(place, chars.len())] {
            code.push(if *c == '\n' { '\n' } else { ' ' });
        }
        place = place.max(end);
    }
    code
}

fn ends(chars: &[char], from: usize, is_end: impl Fn(&[char]) -> bool) -> usize {
    (from..chars.len())
        .find(|place| is_end(&chars[*place..]))
        .unwrap_or(chars.len())
}

fn end_of_comment(chars: &[char], start: usize) -> usize {
    let (mut depth, mut place) = (1, start + 2);
    while depth > 0 && place < chars.len() {
        match chars[place..] {
            ['/', '*', ..] => (depth, place) = (depth + 1, place + 2),
            ['*', '/', ..] => (depth, place) = (depth - 1, place + 2),
            _ => place += 1,
        }
    }
    place
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut place = start + 1;
    while place < chars.len() && chars[place] != '"' {
        place += if chars[place] == '\\' { 2 } else { 1 };
    }
    place + 1
}

/// The end of a raw string; `start` when none begins there.
fn end_of_raw_string(chars: &[char], start: usize) -> usize {
    let marks = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(start + 1 + marks) != Some(&'"') {
        return start;
    }
    let close: Vec<char> = std::iter::once('"')
        .chain(std::iter::repeat_n('#', marks))
        .collect();
    ends(chars, start + 2 + marks, |rest| rest.starts_with(&close)) + close.len()
}

/// The code with spaces in place of what only tests compile.
fn without_tests(mut code: String) -> String {
    while let Some(start) = code.find("#[cfg(test)]") {
        let end = end_of_item(&code, start);
        let blank: String = code[start..end]
            .chars()
            .map(|c| if c == '\n' { '\n' } else { ' ' })
            .collect();
        code.replace_range(start..end, &blank);
    }
    code
}

/// The end of the item or statement whose attribute stands at `start`: behind its `;` or its block.
fn end_of_item(code: &str, start: usize) -> usize {
    let mut depth = 0;
    for (at, c) in code[start..].char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        let end = start + at + c.len_utf8();
        let goes_on = code[end..].trim_start().starts_with(['.', ';', '?']);
        if depth == 0 && (c == ';' || c == '}' && !goes_on) {
            return end;
        }
    }
    code.len()
}

fn lines_where(text: &str, is_found: impl Fn(&str) -> bool) -> Vec<usize> {
    let lines = text.lines().zip(1..);
    lines
        .filter(|(line, _)| is_found(line))
        .map(|(_, number)| number)
        .collect()
}

fn line_of(text: &str, place: usize) -> usize {
    text[..place].matches('\n').count() + 1
}

fn is_of_a_word(c: &char) -> bool {
    c.is_alphanumeric() || *c == '_'
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let behind = line[at + word.len()..].chars().next();
        !before.is_some_and(|c| is_of_a_word(&c)) && !behind.is_some_and(|c| is_of_a_word(&c))
    })
}

/// The Rust files, less this one, which is full of what it looks for.
fn sources() -> impl Iterator<Item = Source> {
    let rust = texts().filter(|(path, _)| path.ends_with(".rs") && path != "tests/tidy.rs");
    rust.map(|(path, text)| Source::new(&path, &text))
}

/// Every text of the repository that somebody wrote, with its path.
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
        if entry.file_type().unwrap().is_dir() {
            if !NOT_WRITTEN.contains(&&*name) {
                found.extend(files(&entry.path()));
            }
        } else {
            let path = entry.path();
            let path = path.strip_prefix(root()).unwrap();
            found.push(path.to_str().unwrap().to_owned());
        }
    }
    found.sort();
    found
}
