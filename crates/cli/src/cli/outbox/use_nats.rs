//! `tidings outbox use-nats`: relays the outbox into another NATS from now on.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::Args;
use serde::Serialize;
use tidings::outbox::NatsMove;

use crate::{
    cli::{
        connect,
        database::{Database, with_outbox},
        output,
        report::{Exit, Outcome, Report},
    },
    config::Config,
};

#[derive(Args)]
pub(super) struct UseNats {
    /// Print what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Answer<'a> {
    done: bool,
    #[serde(flatten)]
    moved: &'a NatsMove,
}

impl UseNats {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let asks = !self.dry_run && !self.yes;
        if asks && (self.json || !io::stdin().is_terminal()) {
            let what = "there is no terminal to confirm this NATS on";
            return Err(Report::new(Exit::Usage, what)
                .cure("--dry-run, which prints what would happen, then --yes"));
        }
        let database = Database::open(config).await?;
        let bus = connect(config).await?;
        let plan = with_outbox!(&database, outbox => outbox.use_nats_dry_run(&bus).await)?;
        if !self.json {
            output::table(&rows(&plan))?;
        }
        let does = !self.dry_run && (self.yes || is_meant());
        if does {
            with_outbox!(&database, outbox => outbox.use_nats(&bus).await)?;
        }
        Ok(match self.json {
            true => output::json(&Answer {
                done: does,
                moved: &plan,
            }),
            false => output::line(match does {
                true => "done: a relay that is connected to this NATS takes the lease",
                false => "nothing is changed",
            }),
        }?)
    }
}

fn rows(plan: &NatsMove) -> Vec<[String; 2]> {
    let before = plan.before.as_ref();
    let before = before.map_or_else(|| "not known".to_owned(), ToString::to_string);
    let streams = match plan.streams.is_empty() {
        true => "none".to_owned(),
        false => plan.streams.join(", "),
    };
    [
        ["relayed into", &before],
        ["from now on", &plan.now.to_string()],
        ["missing or foreign", &streams],
    ]
    .map(|[what, text]| [what.to_owned(), text.to_owned()])
    .to_vec()
}

fn is_meant() -> bool {
    // The answer counts even when the question cannot be shown.
    let _ = write!(io::stderr(), "use this NATS? [y/N] ");
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "yes")
}
