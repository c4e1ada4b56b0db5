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
    /// Print the backlog, the active relay, the last confirmed batch, parked events, issues of the relay, and streams
    /// that have lost events
    ///
    /// Exits with 1 when `tidings doctor` finds the outbox or its relay degraded, stuck or refused. When no relay renews
    /// the lease, or the database cannot be read, the relays are asked over NATS.
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
    ///
    /// Rows are published in the order in which they were written, with their ids and all metadata; `relay.retention`
    /// says how long the outbox keeps them. Without --into and --force, an event is published only if its stream once
    /// stored it and does not hold it any more. Rows that the relay has yet to publish and parked rows are left to the
    /// relay.
    Republish(republish::RunRepublish),
    /// Acknowledge that a stream has lost events: relay and status no longer report the loss
    ///
    /// For events that are not needed back: the stream was recreated on purpose, or the events were restored in another
    /// way. `tidings verify` still reports the missing events.
    AcknowledgeLoss(acknowledge_loss::AcknowledgeLoss),
    /// Relay the outbox into the configured NATS from now on, because the previous one was replaced
    ///
    /// Without this, relay and repair refuse another NATS than before: a cluster of another name, a server of another
    /// name, or a server without a name that has none of the outbox's streams. Events that the previous NATS held and
    /// the new one does not are then reported as lost; `tidings verify --repair` republishes those that the outbox
    /// still keeps.
    UseNats(use_nats::UseNats),
    /// Adopt an outbox that was restored from a dump, or copied row by row
    ///
    /// Such a copy has the rows of the outbox and the relay's cursor, but their transaction ids belong to the old
    /// database. This command gives every row an id that is valid in this database, so that the relay publishes exactly
    /// the events that were not published when the copy was made. A copy of the server's files needs it only after
    /// pg_upgrade. Stop the services that write events first.
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
