//! `tidings subscribers`: lists, pauses, resets and removes subscribers. One file per action.

mod list;
mod pause;
mod prune;
mod remove;
mod reset;
mod show;

use chrono::{DateTime, Datelike, Utc};
use clap::Subcommand;
use tidings::subscribers::{SubscriberIssue, WaitingRetries};

use super::{output, report::Outcome};
use crate::config::Config;

#[derive(clap::Args)]
pub(super) struct SubscribersCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List subscribers: pending, ack pending and retried events, the end of a pause, running instances, and issues
    ///
    /// Pending events were never delivered: a new subscriber still has to catch up on them. Exits with 1 when
    /// `tidings doctor` finds a subscriber in danger, degraded or stuck (dead letters do not count here), and with 3
    /// when something could not be seen.
    List(list::List),
    /// Print one subscriber in full: each consumer and how its configuration differs, each instance, retries, hot keys,
    /// and issues
    ///
    /// Exits with 1 and 3 as `list` does.
    Show(show::Show),
    /// Stop the delivery to all instances of a subscriber, until it is resumed or for a time
    ///
    /// The instances complete the events that they have in flight. The pause outlasts restarts of workers and servers.
    Pause(pause::Pause),
    /// End the pause of a subscriber
    Resume(pause::Resume),
    /// Move a subscriber to another position of its streams: back, so that events are delivered again, or forward, so
    /// that some are skipped
    ///
    /// Prints first which events are delivered again or skipped, and asks. The instances complete the events that they
    /// have in flight; those of an ordered subscriber drop them and start at the new position. Waiting retries keep
    /// their time. Transactional handlers do not handle events again that their inbox remembers: use
    /// `tidings replay start` for that. Needs nats-server 2.14.
    Reset(reset::Reset),
    /// Stop the delivery of events to a subscriber that none of its running instances handles
    ///
    /// A worker never does this by itself, because an older worker that starts would make a newer one miss events.
    /// Events of the dropped names are skipped from now on. Do not run it while a newer version is rolled out.
    Prune(prune::Prune),
    /// Remove a subscriber that is no longer used: its consumers, and all data that is stored for it
    ///
    /// Refused while an instance answers or pulls. Prints first which events wait for the subscriber, and asks. Events
    /// that wait for a retry become dead letters, and dead letters stay. Events stay in their streams: a new subscriber
    /// of the same name starts where its code tells it to.
    Remove(remove::Remove),
}

impl SubscribersCommand {
    /// Whether the command changes something.
    pub(super) fn changes(&self) -> bool {
        match self.action {
            Action::List(_) | Action::Show(_) => false,
            Action::Pause(_)
            | Action::Resume(_)
            | Action::Reset(_)
            | Action::Prune(_)
            | Action::Remove(_) => true,
        }
    }

    pub(super) async fn run(&self, config: &Config) -> Outcome {
        match &self.action {
            Action::List(action) => action.run(config).await,
            Action::Show(action) => action.run(config).await,
            Action::Pause(action) => action.run(config).await,
            Action::Resume(action) => action.run(config).await,
            Action::Reset(action) => action.run(config).await,
            Action::Prune(action) => action.run(config).await,
            Action::Remove(action) => action.run(config).await,
        }
    }
}

/// An issue: its cause, since when, and its cure.
fn issue(issue: &SubscriberIssue) -> String {
    let since = issue.since.map_or_else(String::new, |since| {
        format!(", last without an issue at {}", output::second(since))
    });
    let cure = issue.cure.as_ref();
    let cure = cure.map_or_else(String::new, |cure| format!("; try: {cure}"));
    let is_told = issue
        .since
        .is_some_and(|since| issue.cause.contains(&output::second(since)));
    match is_told {
        true => format!("{}{cure}", issue.cause),
        false => format!("{}{since}{cure}", issue.cause),
    }
}

/// How many events wait for a retry, and until when.
fn retries(retries: Option<&WaitingRetries>) -> String {
    let Some(retries) = retries else {
        return "unknown".to_owned();
    };
    let count = retries.due.saturating_add(retries.scheduled);
    match retries.farthest_at {
        Some(at) if retries.read < retries.scheduled => {
            format!("{count}, until {} or later", output::second(at))
        }
        Some(at) => format!("{count}, until {}", output::second(at)),
        None => count.to_string(),
    }
}

/// The end of a pause, in words that follow `paused until`.
fn pause(until: Option<DateTime<Utc>>) -> String {
    match until {
        None => "-".to_owned(),
        // The library writes a pause without an end as a far date, and so may other tools.
        Some(until) if until.year() >= 2200 => "it is resumed".to_owned(),
        Some(until) => output::second(until),
    }
}
