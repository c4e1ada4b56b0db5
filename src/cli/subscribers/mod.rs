//! `tidings subscribers`: how subscribers do, pausing and resetting them. One file an action.

mod list;
mod narrow;
mod pause;
mod reset;
mod show;

use chrono::{DateTime, Datelike, Utc};
use clap::Subcommand;

use super::{output, report::Outcome};
use crate::config::Config;

#[derive(clap::Args)]
pub(super) struct SubscribersCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List them: what waits, what is not answered, until when they are paused, how many replicas answer
    ///
    /// Pending is what was never delivered: how many events a new one still has to catch up on.
    List(list::List),
    /// Print all of one: each consumer and what of it differs, each replica, retries, hot keys
    Show(show::Show),
    /// Have the server deliver nothing to one, all replicas of it, until resumed or for a time
    ///
    /// What its replicas have in hand they end. The pause outlasts restarts of workers and servers.
    Pause(pause::Pause),
    /// End the pause of one
    Resume(pause::Resume),
    /// Take one to another place of its streams: back, so that it gets events again, or on, so that it skips some
    ///
    /// Says first what is delivered again or skipped, and asks. What its replicas have in hand they end; an ordered one
    /// lets it go and begins at the place. Retries that wait keep their time. Handlers whose effect happens once do not
    /// handle again what their inbox remembers: `tidings replay start` has them do so. Needs nats-server 2.14.
    Reset(reset::Reset),
    /// Have one no longer get the events that none of its running replicas handles
    ///
    /// A worker never does this by itself, because an older one that starts would have the events of a newer one
    /// skipped. Events of the names that are dropped are skipped from now on. Not while a newer version is rolled out.
    Narrow(narrow::Narrow),
}

impl SubscribersCommand {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        match &self.action {
            Action::List(action) => action.run(config).await,
            Action::Show(action) => action.run(config).await,
            Action::Pause(action) => action.run(config).await,
            Action::Resume(action) => action.run(config).await,
            Action::Reset(action) => action.run(config).await,
            Action::Narrow(action) => action.run(config).await,
        }
    }
}

/// Until when something is paused, in words that stand behind `paused until`.
fn pause(until: Option<DateTime<Utc>>) -> String {
    match until {
        None => "-".to_owned(),
        // The library's word for ever, and what other tools may say.
        Some(until) if until.year() >= 2200 => "it is resumed".to_owned(),
        Some(until) => output::second(until),
    }
}
