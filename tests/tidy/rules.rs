//! What holds for every line of some files, and an example that breaks it.

use crate::source::{Source, has_word, lines_where};

/// The rooms of the library, bottom first. Each imports from lower lines only.
const LAYERS: &[&[&str]] = &[
    &["database_error"],
    &["error_text", "log", "position", "schema", "task"],
    &["policy"],
    &["replay"],
    &["observer"],
    &["handler"],
    &["executor"],
    &["nats"],
    &["enqueue", "instance", "preflight"],
    &["process"],
    &["background"],
    &["outbox", "worker"],
    &["operations"],
    &["judge"],
    &["ops"],
    &["testing"],
];

pub const RULES: &[Rule] = &[
    Rule {
        reason: "async_nats is named in src/nats only (and by the bench, which measures its limit)",
        within: |path| {
            path.is_in(&["src/", "crates/cli/src/"])
                && !path.is_in(&["src/nats/", "crates/cli/src/cli/bench"])
        },
        breaks: |source| source.lines_with_word("async_nats"),
        example: ("src/worker.rs", "//! W.\nuse async_nats::Client;\n"),
    },
    Rule {
        reason: "sqlx is named in src/outbox only, where its errors are carried and told, and where it is exported",
        within: |path| {
            path.is_in(&["src/"])
                && !path.is_in(&[
                    "src/outbox/",
                    "src/database_error.rs",
                    "src/error_text.rs",
                    "src/lib.rs",
                ])
        },
        breaks: |source| source.lines_with_word("sqlx"),
        example: ("src/worker.rs", "//! W.\nuse sqlx::Pool;\n"),
    },
    Rule {
        reason: "a statement for Postgres is made by `statement_scope::query` and runs in a `StatementScope` or a \
                 transaction, since a pooler may stand between",
        within: |path| {
            path.is_in(&["src/outbox/store/postgres"])
                && !path.is_in(&["src/outbox/store/postgres/statement_scope.rs"])
        },
        breaks: |source| {
            source.lines_with(&[
                "sqlx::query(",
                "sqlx::query_as",
                "sqlx::query_scalar",
                "query_with(",
            ])
        },
        example: (
            "src/outbox/store/postgres.rs",
            "//! P.\nfn f() { sqlx::query(names.sql(A, '.')); }\n",
        ),
    },
    Rule {
        reason: "axum is named in src/ops only",
        within: |path| path.is_in(&["src/"]) && !path.is_in(&["src/ops/", "src/ops.rs"]),
        breaks: |source| source.lines_with_word("axum"),
        example: ("src/worker.rs", "//! W.\nuse axum::Router;\n"),
    },
    Rule {
        reason: "the library reads no environment, and the program in its config only (where this program and the \
                 temporary folder are may be asked everywhere)",
        within: |path| {
            path.is_in(&["src/", "crates/contract", "events/src/", "crates/cli/src/"])
                && !path.is_in(&["crates/cli/src/config"])
        },
        breaks: |source| {
            lines_where(&source.code, |line| {
                let line = line.replace("std::env::current_exe", "");
                let line = line.replace("std::env::temp_dir", "");
                line.contains("std::env") || line.contains("env::var")
            })
        },
        example: (
            "src/nats/mod.rs",
            "//! B.\nfn f() { std::env::var(\"X\"); }\n",
        ),
    },
    Rule {
        reason: "a pure module has no clock, no randomness, no tokio and no I/O",
        within: |path| path.is_in(&["src/policy/", "src/judge/", "crates/contract-derive/src/"]),
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
        example: ("src/judge/a.rs", "//! A.\nfn f() { Instant::now(); }\n"),
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
            "//! R.\nuse crate::{\n    nats::{Bus, pull},\n    worker::Worker,\n};\n",
        ),
    },
    Rule {
        reason: "the store imports nothing of the outbox's rooms above it: relay, inbox, republish, history",
        within: |path| path.is_in(&["src/outbox/store.rs", "src/outbox/store/"]),
        breaks: |source| {
            let imports = source.imports_from(&["outbox"]).into_iter();
            let above = imports.filter(|(_, name)| name != "store");
            above.map(|(line, _)| line).collect()
        },
        example: (
            "src/outbox/store/values.rs",
            "//! V.\nuse crate::{\n    nats::Identity,\n    outbox::{relay::Relay, store::Row},\n};\n",
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
        reason: "a header of Tidings or NATS, a subject of Tidings or JetStream, and a code of nats-server is written \
                 in src/nats/protocol only",
        within: |path| {
            path.is_in(&["src/", "crates/cli/src/"]) && !path.is_in(&["src/nats/protocol/"])
        },
        breaks: |source| {
            let mut found = lines_where(&source.with_strings, has_text_of_the_wire);
            found.extend(lines_where(&source.code, has_server_code));
            found
        },
        example: (
            "src/operations/trace.rs",
            "//! T.\nfn f() { g(\"tidings-dead-cause\"); }\n",
        ),
    },
    Rule {
        reason: "a code of nats-server has a name in src/nats/protocol/codes.rs",
        within: |path| {
            path.is_in(&["src/nats/protocol/"]) && !path.is_in(&["src/nats/protocol/codes.rs"])
        },
        breaks: |source| lines_where(&source.code, has_server_code),
        example: (
            "src/nats/protocol/retry.rs",
            "//! R.\nfn f() { g(10059); }\n",
        ),
    },
    Rule {
        reason: "the program's configuration knows no command",
        within: |path| path.is_in(&["crates/cli/src/config"]),
        breaks: |source| source.lines_with(&["crate::cli"]),
        example: (
            "crates/cli/src/config.rs",
            "//! C.\nuse crate::cli::output;\n",
        ),
    },
    Rule {
        reason: "the test kit is used by nothing in the library",
        within: |path| path.is_in(&["src/"]) && !path.is_in(&["src/lib.rs", "src/testing/"]),
        breaks: |source| source.lines_with_word("testing"),
        example: ("src/worker.rs", "//! W.\nuse crate::testing::TestWorker;\n"),
    },
    Rule {
        reason: "a file opens with `//!`: what it owns, and what it never does",
        within: |path| path.is_in(&["src/", "crates/", "events/", "tests/", "examples/"]),
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
            let words = [
                concat!("TO", "DO"),
                concat!("FIX", "ME"),
                concat!("XX", "X"),
            ];
            let comments = lines_where(&source.text, |line| {
                let comment = line.split_once("//").map_or("", |(_, comment)| comment);
                words.iter().any(|word| has_word(comment, word))
            });
            let code = source.lines_with(&["todo!(", "unimplemented!(", "dbg!("]);
            [comments, code].concat()
        },
        example: (
            "src/worker.rs",
            concat!("//! W.\nfn f() {} // FIX", "ME: g\n"),
        ),
    },
    Rule {
        reason: "a comment names the actor, and has the words of docs/reference/glossary.md",
        within: |_| true,
        breaks: |source| {
            lines_where(&source.text, |line| {
                let line = line.trim_start();
                line.starts_with("//") && has_foreign_word(line)
            })
        },
        example: ("src/worker.rs", "//! W.\n// Nobody has it in hand.\n"),
    },
    Rule {
        reason: "a test that is ignored proves nothing",
        within: |_| true,
        breaks: |source| source.lines_with(&["#[ignore"]),
        example: (
            "tests/suite/relay/order.rs",
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
        within: |path| {
            path.is_in(&[
                "tests/",
                "crates/cli/tests/",
                "crates/contract/tests/",
                "crates/test-support/",
                "events/tests/",
                "examples/worker/tests/",
            ])
        },
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
            "tests/suite/relay/order.rs",
            "//! O.\nfn f() {\n    sleep(A);\n}\n",
        ),
    },
    Rule {
        reason: "the name of a test has at most 59 characters",
        within: |_| true,
        breaks: |source| lines_of_tests(source, |name| name.len() > 59),
        example: (
            "src/policy/retry.rs",
            "//! R.\n#[test]\nfn a_delay_of_a_retry_that_has_been_asked_for_is_obeyed_and_is_counted() {}\n",
        ),
    },
    Rule {
        reason: "the name of a test has the words of docs/reference/glossary.md",
        within: |_| true,
        breaks: |source| lines_of_tests(source, has_foreign_part),
        example: (
            "tests/suite/relay/order.rs",
            "//! O.\nboth!(\n    what_was_given_up_is_told,\n    a_dead_letter_is_stored,\n);\n",
        ),
    },
    Rule {
        reason: "a public struct with public fields is `#[non_exhaustive]`: a new field breaks no user",
        within: |path| {
            let are_inner = path.is_in(&["src/outbox/"]);
            let are_shown = [
                "status.rs",
                "store/losses.rs",
                "outbox/home.rs",
                "relay/reporter.rs",
            ];
            path.is_in(&["src/", "crates/contract/src/", "crates/test-servers/src/"])
                && (!are_inner || are_shown.iter().any(|file| path.0.ends_with(file)))
        },
        breaks: Source::open_structs,
        example: (
            "src/instance.rs",
            "//! I.\n#[derive(Clone)]\npub struct HotKey {\n    pub key: String,\n}\n",
        ),
    },
    Rule {
        reason: "an error that users match holds a `DatabaseError`, and not that of sqlx",
        within: |path| path.is_in(&["src/"]) && !path.is_in(&["src/outbox/relay/fault.rs"]),
        breaks: |source| {
            source.lines_with(&[
                "source: sqlx::Error,",
                "#[source] sqlx::Error",
                "#[from] sqlx::Error",
            ])
        },
        example: (
            "src/outbox/mod.rs",
            "//! O.\npub enum E {\n    Database(#[from] sqlx::Error),\n}\n",
        ),
    },
];

/// What a string holds that is sent to NATS or stored there, and nowhere else.
const TEXTS_OF_THE_WIRE: &[&str] = &[
    "$JS",
    "$KV",
    "\"Nats-",
    "\"ce-",
    "\"_INBOX",
    "\"tidings-\"",
    "\"tidings-dead",
    "\"tidings-retry",
    "\"tidings-redrive",
    "\"tidings-replay",
    "\"tidings-republished",
    "\"tidings.retry",
    "\"tidings.status",
    "\"tidings.wake",
    "\"tidings.*",
    "\"dead-letter.",
];

fn has_text_of_the_wire(line: &str) -> bool {
    TEXTS_OF_THE_WIRE.iter().any(|text| line.contains(text))
}

/// Whether a line of code has an error code of the JetStream API: five digits, from 10000 to 10299.
fn has_server_code(line: &str) -> bool {
    let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.any(|word| {
        word.len() == 5
            && word.bytes().all(|digit| digit.is_ascii_digit())
            && ["100", "101", "102"]
                .iter()
                .any(|start| word.starts_with(start))
    })
}

/// Words and phrases that stand for an actor or a term which a reader has to guess.
const FOREIGN_WORDS: &[&str] = &[
    "whoever",
    "somebody",
    "nobody",
    "everybody",
    "besides",
    "anew",
    "turned round",
    "put aside",
    "for ever",
];

/// The same for the names of tests, in which one expects a sentence.
const FOREIGN_PARTS: &[&str] = &[
    "told",
    "tells",
    "given_up",
    "gives_up",
    "put_aside",
    "in_hand",
    "buries",
    "buried",
    "letter",
    "letters",
    "hold_up",
    "holds_up",
    "held_up",
    "go_back",
    "goes_back",
    "goes_on",
    "asked_for",
    "made_whole",
    "trouble",
    "whatever",
    "however",
];

/// Whether a name has one of [`FOREIGN_PARTS`] or [`FOREIGN_WORDS`]; a dead letter is none.
fn has_foreign_part(name: &str) -> bool {
    let name = format!("_{}_", name.replace("dead_letter", "dead-letter"));
    let foreign = FOREIGN_PARTS.iter().chain(FOREIGN_WORDS);
    let mut foreign = foreign.map(|part| format!("_{}_", part.replace(' ', "_")));
    foreign.any(|part| name.contains(&part))
}

fn lines_of_tests(source: &Source, is_broken: impl Fn(&str) -> bool) -> Vec<usize> {
    let tests = source.tests().into_iter();
    let broken = tests.filter(|(_, name)| is_broken(name));
    broken.map(|(line, _)| line).collect()
}

/// Whether a line has one of [`FOREIGN_WORDS`]; the Unix user of that name, and words in backticks, are none.
pub fn has_foreign_word(line: &str) -> bool {
    let spoken: String = line.split('`').step_by(2).collect();
    let spoken = spoken.to_lowercase();
    FOREIGN_WORDS.iter().any(|words| has_word(&spoken, words))
}

/// What users get.
const SHIPPED: &[&str] = &[
    "src/",
    "crates/cli/src/",
    "crates/contract/src/",
    "crates/contract-derive/src/",
    "crates/test-servers/src/",
    "events/src/",
];

/// What holds for every line of some files.
pub struct Rule {
    pub reason: &'static str,
    pub within: fn(&RelativePath<'_>) -> bool,
    /// The lines that break it, from 1.
    pub breaks: fn(&Source) -> Vec<usize>,
    /// A path and a text that break it.
    pub example: (&'static str, &'static str),
}

/// The place in [`LAYERS`], from the bottom.
fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// A path from the root of the repository, with `/`.
pub struct RelativePath<'a>(pub &'a str);

impl RelativePath<'_> {
    fn is_in(&self, starts: &[&str]) -> bool {
        starts.iter().any(|start| self.0.starts_with(start))
    }
}
