//! `tidings dead-letters list`: the events that subscribers dead-lettered. Never changes anything.

use std::num::NonZeroUsize;

use clap::Args;
use tidings::{
    dead_letters::{DeadLetterGroup, DeadLetterSelection, DeadLetters, StoredDeadLetter},
    handler::Cause,
};

use super::{Filter, head_of, or_dash};
use crate::{
    cli::{connect, output, report::Outcome},
    config::Config,
};

/// How many rows share the column widths of one table. The next rows get their own widths.
const ROWS: usize = 1000;
/// The longest part of an error in a row, in characters.
const ERROR: usize = 100;

#[derive(Args)]
pub(super) struct List {
    /// The most dead letters to list, the oldest first; reports when there are more
    #[arg(long, value_name = "N", default_value = "100")]
    limit: NonZeroUsize,
    /// Group all dead letters by the kind of error: count, first and last one, an example
    #[arg(long, conflicts_with = "limit")]
    groups: bool,
    /// Print one JSON object per dead letter or group
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filter: Filter,
}

impl List {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let bus = connect(config).await?;
        let dead_letters = DeadLetters::new(&bus);
        let selection = self.filter.selection();
        match self.groups {
            true => self.groups(&dead_letters, selection).await,
            false => self.letters(&dead_letters, selection).await,
        }
    }

    async fn letters(&self, dead_letters: &DeadLetters, selection: DeadLetterSelection) -> Outcome {
        let is_filtered = !selection.is_all();
        let mut letters = dead_letters.read(selection).await?;
        let mut rows = vec![HEAD.map(str::to_owned)];
        let mut listed = 0;
        while listed < self.limit.get() {
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
        let is_cut = listed == self.limit.get() && letters.next().await?.is_some();
        match (self.json, listed) {
            (true, _) if is_cut => output::note(self.more()),
            (true, _) => {}
            (false, 0) => none(dead_letters, is_filtered).await?,
            (false, _) => {
                output::table(&rows)?;
                if is_cut {
                    output::line(self.more())?;
                }
            }
        }
        Ok(())
    }

    /// The note that not all dead letters are listed.
    fn more(&self) -> String {
        format!(
            "these are the {} oldest, and there are more: a higher --limit lists them, --since 1h those of the last \
             hour, --groups counts all",
            self.limit
        )
    }

    async fn groups(&self, dead_letters: &DeadLetters, selection: DeadLetterSelection) -> Outcome {
        let is_filtered = !selection.is_all();
        let groups = dead_letters.groups(selection).await?;
        if self.json {
            for group in &groups {
                output::json(group)?;
            }
            return Ok(());
        }
        let head = GROUP_HEAD.map(str::to_owned);
        let rows = [head].into_iter().chain(groups.iter().map(group_row));
        let rows: Vec<[String; 8]> = rows.collect();
        match rows.len() {
            1 => none(dead_letters, is_filtered).await,
            _ => Ok(output::table(&rows)?),
        }
    }
}

/// Reports that there are no dead letters, or that none matches the conditions.
async fn none(dead_letters: &DeadLetters, is_filtered: bool) -> Outcome {
    if is_filtered {
        let mut all = dead_letters.read(DeadLetterSelection::default()).await?;
        if all.next().await?.is_some() {
            return Ok(output::line(
                "no dead letter matches: there are other ones",
            )?);
        }
    }
    Ok(output::line("there are no dead letters")?)
}

const HEAD: [&str; 9] = [
    "dead letter",
    "subscriber",
    "name",
    "key",
    "dead-lettered at",
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
        output::time(letter.stored_at),
        or_dash(letter.cause.as_ref().map(Cause::as_str)),
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
        or_dash(group.cause.as_ref().map(Cause::as_str)),
        output::time(group.first_at),
        output::time(group.last_at),
        joined(&group.subscribers),
        joined(&group.names),
        shortened(&group.error),
    ]
}

fn shortened(error: &str) -> String {
    match error.char_indices().nth(ERROR) {
        Some((end, _)) => format!("{}...", &error[..end]),
        None => or_dash(Some(error)),
    }
}
