//! `tidings dead-letters discard`: giving dead letters up, for ever. Never without saying which.

use clap::Args;
use tidings::DeadLetters;

use super::{Which, not_there, parked::Touched};
use crate::{
    cli::{
        connect, output,
        report::{Exit, Outcome, Report},
        told_to_stop,
    },
    config::Config,
};

#[derive(Args)]
pub(super) struct Discard {
    /// Needed with `--all`
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    which: Which,
}

impl Discard {
    /// Each is printed before it is deleted, so that it can be kept.
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let selection = self.which.selection()?;
        if self.which.all && !self.yes {
            let what = "--all gives up all dead letters, for ever";
            return Err(Report::new(Exit::Usage, what).cure("--all --yes, if that is meant"));
        }
        let stop = told_to_stop();
        let bus = connect(config).await?;
        let dead_letters = DeadLetters::over(&bus);
        let mut letters = dead_letters.read(selection).await?;
        let mut is_none = true;
        let mut touched = Touched::of(&dead_letters).await?;
        loop {
            let letter = tokio::select! {
                letter = letters.next() => letter?,
                () = stop.cancelled() => return Ok(()),
            };
            let Some(letter) = letter else { break };
            is_none = false;
            output::json(&letter)?;
            dead_letters.discard(&letter).await?;
            touched.note(&letter);
        }
        touched.unpark(&dead_letters).await?;
        match (is_none, self.which.letter) {
            (true, Some(letter)) => Err(not_there(letter)),
            _ => Ok(()),
        }
    }
}
