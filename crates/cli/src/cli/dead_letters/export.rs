//! `tidings dead-letters export`: dead letters as JSON lines. Never changes anything.

use clap::Args;
use tidings::dead_letters::DeadLetters;

use super::Filter;
use crate::{
    cli::{connect, output, report::Outcome},
    config::Config,
};

#[derive(Args)]
pub(super) struct Export {
    #[command(flatten)]
    filter: Filter,
}

impl Export {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let bus = connect(config).await?;
        let mut letters = DeadLetters::new(&bus).read(self.filter.selection()).await?;
        while let Some(letter) = letters.next().await? {
            output::json(&letter)?;
        }
        Ok(())
    }
}
