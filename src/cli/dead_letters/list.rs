//! `tidings dead-letters list`: what subscribers gave up. Never changes anything.

use clap::Args;
use tidings::{DeadLetterGroup, DeadLetterSelection, DeadLetters, StoredDeadLetter};

use super::{Filter, head_of, or_dash, time};
use crate::{
    cli::{connect, output, report::Outcome},
    config::Config,
};

/// How many rows stand below each other in one table; the next ones get widths of their own.
const ROWS: usize = 1000;
/// How much of an error stands in a row, in characters.
const ERROR: usize = 100;

#[derive(Args)]
pub(super) struct List {
    /// How many to list at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Group them by the kind of error: how many, the first and the last one, an example
    #[arg(long)]
    groups: bool,
    /// Print a JSON object for each
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filter: Filter,
}

impl List {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let bus = connect(config).await?;
        let dead_letters = DeadLetters::over(&bus);
        let selection = self.filter.selection();
        match self.groups {
            true => self.groups(&dead_letters, selection).await,
            false => self.letters(&dead_letters, selection).await,
        }
    }

    async fn letters(&self, dead_letters: &DeadLetters, selection: DeadLetterSelection) -> Outcome {
        let mut letters = dead_letters.read(selection).await?;
        let mut rows = vec![HEAD.map(str::to_owned)];
        let mut listed = 0;
        while listed < self.limit {
            let Some(letter) = letters.next().await? else {
                break;
            };
            listed += 1;
            if self.json {
                output::json(&letter)?;
                continue;
            }
            rows.push(row(&letter));
            if rows.len() > ROWS {
                output::table(&rows)?;
                rows.clear();
            }
        }
        match (self.json, listed) {
            (true, _) => Ok(()),
            (false, 0) => Ok(output::line("there are no dead letters")?),
            (false, _) => Ok(output::table(&rows)?),
        }
    }

    async fn groups(&self, dead_letters: &DeadLetters, selection: DeadLetterSelection) -> Outcome {
        let groups = dead_letters.groups(selection).await?;
        let groups = groups.iter().take(self.limit);
        if self.json {
            for group in groups {
                output::json(group)?;
            }
            return Ok(());
        }
        let head = GROUP_HEAD.map(str::to_owned);
        let rows: Vec<[String; 8]> = [head].into_iter().chain(groups.map(group_row)).collect();
        match rows.len() {
            1 => Ok(output::line("there are no dead letters")?),
            _ => Ok(output::table(&rows)?),
        }
    }
}

const HEAD: [&str; 9] = [
    "letter",
    "subscriber",
    "name",
    "key",
    "given up at",
    "cause",
    "attempts",
    "fingerprint",
    "error",
];

fn row(letter: &StoredDeadLetter) -> [String; 9] {
    let [sequence, subscriber, name, key] = head_of(letter);
    let attempts = letter.attempts.map(|attempts| attempts.to_string());
    [
        sequence,
        subscriber,
        name,
        key,
        time(letter.stored_at),
        or_dash(letter.cause.as_deref()),
        or_dash(attempts.as_deref()),
        or_dash(letter.fingerprint.as_deref()),
        shortened(&letter.error),
    ]
}

const GROUP_HEAD: [&str; 8] = [
    "fingerprint",
    "count",
    "cause",
    "first",
    "last",
    "subscribers",
    "names",
    "error of the last one",
];

fn group_row(group: &DeadLetterGroup) -> [String; 8] {
    let joined = |all: &std::collections::BTreeSet<String>| {
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        or_dash(Some(&all.join(", ")))
    };
    [
        or_dash(group.fingerprint.as_deref()),
        group.count.to_string(),
        or_dash(group.cause.as_deref()),
        time(group.first_at),
        time(group.last_at),
        joined(&group.subscribers),
        joined(&group.names),
        shortened(&group.error),
    ]
}

fn shortened(error: &str) -> String {
    match error.char_indices().nth(ERROR) {
        Some((end, _)) => output::printable(&format!("{}...", &error[..end])),
        None => or_dash(Some(error)),
    }
}
