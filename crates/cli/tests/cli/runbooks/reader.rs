//! Reads docs/runbooks and performs them: the commands of one runbook, word for word and in order, and the output that
//! the runbook shows. Never knows what a command is for.

use std::collections::{BTreeMap, VecDeque};

use crate::support::{Ended, World, eventually};

const RUNBOOKS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/runbooks");
/// The words in capitals that the operator replaces.
const BLANKS: [&str; 9] = [
    "SUBSCRIBER",
    "FINGERPRINT",
    "SEQUENCE",
    "REPLAY",
    "EVENT",
    "TIME",
    "NAME",
    "KEY",
    "ROW",
];

/// A runbook that is being performed.
pub struct Runbook {
    title: String,
    steps: VecDeque<Step>,
    blanks: BTreeMap<&'static str, String>,
}

/// A command, and the lines that it prints among others.
#[derive(Debug, Clone)]
struct Step {
    command: String,
    prints: Vec<String>,
}

impl Runbook {
    /// The runbook under a heading, without the sections below it.
    pub fn open(title: &str) -> Self {
        let steps = steps_below(&document(), title);
        assert!(!steps.is_empty(), "{title:?} has no commands");
        Self {
            title: title.to_owned(),
            steps: steps.into(),
            blanks: BTreeMap::new(),
        }
    }

    /// Fills in a word in all further commands.
    pub fn fill(&mut self, blank: &'static str, text: impl Into<String>) -> &mut Self {
        assert!(BLANKS.contains(&blank), "{blank} is not one of the blanks");
        self.blanks.insert(blank, text.into());
        self
    }

    /// Performs the next command, which must succeed and print the output that the runbook shows.
    pub async fn next(&mut self, world: &World) -> Ended {
        self.ends(world, 0).await
    }

    /// The same for a command that ends with another exit code.
    pub async fn ends(&mut self, world: &World, code: i32) -> Ended {
        let step = self.step();
        let ended = world.run(&step.words()).await;
        assert_eq!(ended.code, Some(code), "{}: {ended:?}", step.command);
        step.check(&ended);
        ended
    }

    /// Performs the next command repeatedly until it prints the output that the runbook shows.
    pub async fn until(&mut self, world: &World) {
        let step = self.step();
        assert!(!step.prints.is_empty(), "{} prints nothing", step.command);
        eventually(&format!("{}: {:?}", step.command, step.prints), || async {
            let ended = world.run(&step.words()).await;
            step.missing(&ended).is_none()
        })
        .await;
    }

    /// Checks that every command was performed.
    pub fn done(self) {
        let left: Vec<&String> = self.steps.iter().map(|step| &step.command).collect();
        assert!(left.is_empty(), "{}: not performed: {left:?}", self.title);
    }

    fn step(&mut self) -> Step {
        let Self {
            title,
            steps,
            blanks,
        } = self;
        let Some(mut step) = steps.pop_front() else {
            panic!("{title:?} has no further command");
        };
        for text in step.prints.iter_mut().chain([&mut step.command]) {
            for (blank, value) in &*blanks {
                *text = filled(text, blank, value);
            }
        }
        let open = BLANKS
            .iter()
            .find(|blank| filled(&step.command, blank, "") != step.command);
        assert_eq!(open, None, "not filled in: {}", step.command);
        step
    }
}

impl Step {
    /// The arguments of the program.
    fn words(&self) -> Vec<&str> {
        let words: Vec<&str> = self.command.split_whitespace().collect();
        match words.split_first() {
            Some((&"tidings", arguments)) if !self.command.contains(['"', '\'', '|', '>', '#']) => {
                arguments.to_vec()
            }
            _ => panic!("{:?} is not a plain command of tidings", self.command),
        }
    }

    fn check(&self, ended: &Ended) {
        if let Some(missing) = self.missing(ended) {
            panic!("{} does not print {missing:?}: {ended:?}", self.command);
        }
    }

    /// The first expected line that is not printed, in order.
    fn missing(&self, ended: &Ended) -> Option<&String> {
        let text = format!("{}{}", ended.stdout, ended.stderr);
        let mut lines = text.lines();
        let mut prints = self.prints.iter();
        prints.find(|wanted| !lines.any(|line| fits(line, wanted)))
    }
}

/// Whether a line is the expected one; `...` stands for anything, and columns may be wider.
fn fits(line: &str, told: &str) -> bool {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (line, told) = (plain(line), plain(told));
    let mut parts = told.split("...").map(str::trim);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    let mut is_open = false;
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
        is_open = part.is_empty();
    }
    is_open || rest.is_empty()
}

/// Replaces a whole word in a text.
fn filled(text: &str, blank: &str, value: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(blank) {
        let behind = &rest[at + blank.len()..];
        let is_word = !rest[..at].ends_with(is_part) && !behind.starts_with(is_part);
        out.push_str(&rest[..at]);
        out.push_str(if is_word { value } else { blank });
        rest = behind;
    }
    out + rest
}

fn steps_below(document: &str, title: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut is_here, mut is_block) = (false, false);
    for line in document.lines() {
        if let Some(heading) = line.strip_prefix('#') {
            is_here = heading.trim_start_matches('#').trim() == title;
        } else if line.starts_with("```") {
            is_block = line == "```console";
        } else if is_here && is_block {
            match line.strip_prefix("$ ") {
                Some(command) => steps.push(Step {
                    command: command.to_owned(),
                    prints: Vec::new(),
                }),
                None => steps
                    .last_mut()
                    .expect("a command above what it prints")
                    .prints
                    .push(line.to_owned()),
            }
        }
    }
    steps
}

/// All runbooks as one text, in the order of their file names.
fn document() -> String {
    let files = std::fs::read_dir(RUNBOOKS).expect("docs/runbooks");
    let paths = files.map(|file| file.expect("a file of docs/runbooks").path());
    let mut paths: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    paths.sort();
    let texts = paths
        .iter()
        .map(|path| std::fs::read_to_string(path).expect("a runbook"));
    texts.collect::<Vec<_>>().join("\n")
}

/// The headings of sections that have commands.
pub fn titles() -> Vec<String> {
    let document = document();
    let headings = document.lines().filter(|line| line.starts_with('#'));
    let titles = headings.map(|line| line.trim_start_matches('#').trim().to_owned());
    titles
        .filter(|title| !steps_below(&document, title).is_empty())
        .collect()
}

#[test]
fn a_line_matches_its_pattern() {
    for (line, told, fits_it) in [
        ("backlog   0 events", "backlog 0 events", true),
        ("backlog   10 events", "backlog 0 events", false),
        ("backlog   0 events left", "backlog 0 events", false),
        (
            "issue  stream A, since 10:00: full; try: x",
            "issue stream A, since ...: full; ...",
            true,
        ),
        (
            "issue  stream A, since 10:00: sealed",
            "issue stream A, since ...: full...",
            false,
        ),
        ("7 ada", "... ada", true),
        ("7 ada 8", "... ada", false),
    ] {
        assert_eq!(fits(line, told), fits_it, "{line:?} {told:?}");
    }
}

#[test]
fn only_whole_words_are_filled_in() {
    assert_eq!(
        filled("--key KEY DEAD_KEY", "KEY", "ada"),
        "--key ada DEAD_KEY"
    );
}

#[test]
fn a_runbook_ends_with_the_next_heading() {
    let document = "# A\n```console\n$ tidings x\nsaid\n```\n```text\n$ no\n```\n## B\n```console\n$ tidings y\n```\n";
    let steps = steps_below(document, "A");
    assert_eq!(steps.len(), 1);
    assert_eq!(
        (&*steps[0].command, &*steps[0].prints),
        ("tidings x", &["said".to_owned()][..])
    );
}
