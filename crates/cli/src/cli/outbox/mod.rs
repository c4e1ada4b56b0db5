//! `tidings outbox`: inspects and operates the outbox. One file per action.

mod acknowledge_loss;
mod adopt;
mod delayed;
mod parked;
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
    /// Print the backlog, the active relay, the last confirmed batch, parked events, and issues
    Status(status::ShowStatus),
    /// List the events that NATS refuses and the events that wait for them, in the order in which they were written
    Parked(parked::ListParked),
    /// Print one parked event, with its payload
    Show(parked::ShowParked),
    /// Publish parked events, in order; with a row id, all parked events of its key
    Unpark(parked::Unpark),
    /// Delete parked events permanently; prints each one as a JSON object
    Discard(parked::Discard),
    /// List delayed events, the next one first
    Delayed(delayed::ListDelayed),
    /// Cancel delayed events, so that they are never published
    Cancel(delayed::Cancel),
    /// Publish events again that the outbox still keeps
    Republish(republish::RunRepublish),
    /// Acknowledge that a stream has lost events: relay and status no longer report the loss
    AcknowledgeLoss(acknowledge_loss::AcknowledgeLoss),
    /// Relay the outbox into the configured NATS from now on, because the previous one was replaced
    UseNats(use_nats::UseNats),
    /// Adopt an outbox that was restored from a dump, or copied row by row
    Adopt(adopt::RunAdopt),
}

impl OutboxCommand {
    /// Whether the command changes something.
    pub(super) fn changes(&self) -> bool {
        match self.action {
            Action::Status(_) | Action::Parked(_) | Action::Show(_) | Action::Delayed(_) => false,
            Action::Unpark(_)
            | Action::Discard(_)
            | Action::Cancel(_)
            | Action::Republish(_)
            | Action::AcknowledgeLoss(_)
            | Action::UseNats(_)
            | Action::Adopt(_) => true,
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
            Action::AcknowledgeLoss(action) => action.run(config).await,
            Action::UseNats(action) => action.run(config).await,
            Action::Adopt(action) => action.run(config).await,
        }
    }
}
