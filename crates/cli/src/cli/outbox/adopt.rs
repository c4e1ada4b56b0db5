//! `tidings outbox adopt`: adopts a copied outbox, or prints what adopting would change.

use clap::Args;
use serde::Serialize;
use tidings::outbox::{AdoptedEvent, Adoption};

use crate::{
    cli::{
        database::Database,
        output,
        report::{Exit, Outcome, Report},
    },
    config::Config,
};

#[derive(Args)]
pub(super) struct RunAdopt {
    /// Print what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Answer<'a> {
    needed: bool,
    dry_run: bool,
    #[serde(flatten)]
    adopt: Option<&'a Adoption>,
}

impl RunAdopt {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let outbox = match Database::open(config).await? {
            Database::Postgres(outbox) => outbox,
            Database::Sqlite(_) => return Err(not_on_sqlite()),
        };
        let adopt = match self.dry_run {
            true => outbox.adopt_dry_run().await?,
            false => outbox.adopt().await?,
        };
        if self.json {
            return Ok(output::json(&Answer {
                needed: adopt.is_some(),
                dry_run: self.dry_run,
                adopt: adopt.as_ref(),
            })?);
        }
        match adopt {
            None => Ok(output::line(
                "nothing to do: the outbox belongs to this database",
            )?),
            Some(adopt) => Ok(output::table(&self.rows(&adopt))?),
        }
    }

    fn rows(&self, adopt: &Adoption) -> Vec<[String; 2]> {
        let mut rows = vec![
            ["reason".into(), adopt.reason.clone()],
            ["in the log".into(), output::events(adopt.events)],
            ["published".into(), output::events(adopt.published)],
            ["to publish".into(), output::events(adopt.to_publish)],
            ["oldest".into(), named(adopt.oldest.as_ref())],
            ["newest".into(), named(adopt.newest.as_ref())],
        ];
        for (stream, sequence) in &adopt.streams {
            let behind = format!("{stream}, after sequence {sequence}");
            rows.push(["searched".into(), behind]);
        }
        let done = match self.dry_run {
            true => "nothing was changed: run it without --dry-run",
            false => "the outbox belongs to this database now: start the relay",
        };
        rows.push(["done".into(), done.into()]);
        rows
    }
}

fn named(event: Option<&AdoptedEvent>) -> String {
    event.map_or_else(
        || "-".into(),
        |event| format!("{} {} of {}", event.name, event.event, event.at),
    )
}

fn not_on_sqlite() -> Report {
    Report::new(
        Exit::Usage,
        "an outbox on SQLite needs no adoption: its ids are valid in every copy of the file",
    )
    .cure("tidings relay")
}
