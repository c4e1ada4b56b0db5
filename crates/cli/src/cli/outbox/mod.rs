//! `tidings outbox`: looking into the outbox, and what to do about it. One file an action.

mod accept;
mod delayed;
mod parked;
mod rebase;
mod republish;
mod status;
mod use_nats;

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
    /// List what NATS does not take, and what follows it, in the order in which it was written
    Parked(parked::ListParked),
    /// Print one parked event, with its payload
    Show(parked::ShowParked),
    /// Have parked events published, in their order; with a row, all that is parked under its key
    Unpark(parked::Unpark),
    /// Give parked events up, for ever; prints them, one JSON object each
    Discard(parked::Discard),
    /// List the events that are published later, the next one first
    Delayed(delayed::ListDelayed),
    /// Take delayed events back, so that they are never published
    Cancel(delayed::Cancel),
    /// Publish again what the outbox still keeps
    Republish(republish::RunRepublish),
    /// Let it be that a stream has lost something: relay and status tell of it no more
    Accept(accept::AcceptLoss),
    /// Have the outbox be relayed into the configured NATS from now on, because the old one was replaced
    UseNats(use_nats::UseNats),
    /// Make an outbox that was restored from a dump, or copied row by row, this database's own
    Rebase(rebase::RunRebase),
}

impl OutboxCommand {
    /// Whether it changes something.
    pub(super) fn changes(&self) -> bool {
        match self.action {
            Action::Status(_) | Action::Parked(_) | Action::Show(_) | Action::Delayed(_) => false,
            Action::Unpark(_)
            | Action::Discard(_)
            | Action::Cancel(_)
            | Action::Republish(_)
            | Action::Accept(_)
            | Action::UseNats(_)
            | Action::Rebase(_) => true,
        }
    }

    pub(super) async fn run(&self, config: &Config) -> Outcome {
        match &self.action {
            Action::Status(action) => action.run(config).await,
            Action::Parked(action) => action.run(config).await,
            Action::Show(action) => action.run(config).await,
            Action::Unpark(action) => action.run(config).await,
            Action::Discard(action) => action.run(config).await,
            Action::Delayed(action) => action.run(config).await,
            Action::Cancel(action) => action.run(config).await,
            Action::Republish(action) => action.run(config).await,
            Action::Accept(action) => action.run(config).await,
            Action::UseNats(action) => action.run(config).await,
            Action::Rebase(action) => action.run(config).await,
        }
    }
}
