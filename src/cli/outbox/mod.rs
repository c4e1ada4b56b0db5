//! `tidings outbox`: looking into the outbox. One file an action.

mod delayed;
mod rebase;
mod status;

use clap::{Args, Subcommand};

use super::report::Outcome;
use crate::config::Config;

#[derive(Args)]
pub(super) struct OutboxCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Print what waits, who relays, what was confirmed last, and what is parked
    Status(status::ShowStatus),
    /// List the events that are published later, the next one first
    Delayed(delayed::ListDelayed),
    /// Take delayed events back, so that they are never published
    Cancel(delayed::Cancel),
    /// Make an outbox that was restored from a dump, or copied row by row, this database's own
    Rebase(rebase::RunRebase),
}

impl OutboxCommand {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        match &self.action {
            Action::Status(action) => action.run(config).await,
            Action::Delayed(action) => action.run(config).await,
            Action::Cancel(action) => action.run(config).await,
            Action::Rebase(action) => action.run(config).await,
        }
    }
}
