//! `tidings subscribers`: how subscribers do, pausing, resetting and removing them. One file an action.

mod list;
mod narrow;
mod pause;
mod remove;
mod reset;
mod show;

use chrono::{DateTime, Datelike, Utc};
use clap::Subcommand;
use tidings::{SubscriberIssue, WaitingRetries};

use super::{
    output,
    report::{Exit, Outcome, Report},
};
use crate::config::Config;

#[derive(clap::Args)]
pub(super) struct SubscribersCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List them: what waits, what is not answered, what is tried again, until when they are paused, how many replicas
    /// answer, and what is wrong
    ///
    /// Pending is what was never delivered: how many events a new one still has to catch up on. Ends with 1 when something
    /// holds events up or may have lost some, which a pause does not, and with 3 when something could not be seen.
    List(list::List),
    /// Print all of one: each consumer and what of it differs, each replica, retries, hot keys, and what is wrong
    ///
    /// Ends with 1 and 3 as `list`.
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
    /// Remove one that is gone for good: its consumers, and what else is kept for it
    ///
    /// Not while a replica answers or pulls. Tells first what waits for it, and asks. What waits for another attempt becomes
    /// dead letters, and dead letters stay. Events stay in their streams: a new one of its name begins where its code says.
    Remove(remove::Remove),
}

impl SubscribersCommand {
    /// Whether it changes something.
    pub(super) fn changes(&self) -> bool {
        match self.action {
            Action::List(_) | Action::Show(_) => false,
            Action::Pause(_)
            | Action::Resume(_)
            | Action::Reset(_)
            | Action::Narrow(_)
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
            Action::Narrow(action) => action.run(config).await,
            Action::Remove(action) => action.run(config).await,
        }
    }
}

/// What is the matter, since when, and what helps.
fn issue(issue: &SubscriberIssue) -> String {
    let since = issue.since.map_or_else(String::new, |since| {
        format!(", last well at {}", output::second(since))
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

/// How many events wait for another attempt, and until when.
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

/// How a command ends that has seen nothing wrong, and not all.
fn unseen(what: &str) -> Report {
    let report = Report::new(Exit::Unreachable, format!("not all could be seen: {what}"));
    report.cure("the same again, when it answers; permissions.conf has what the program needs")
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
