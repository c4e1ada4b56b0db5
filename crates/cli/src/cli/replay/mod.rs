//! `tidings replay`: having subscribers handle events again. One file an action.

mod list;
mod rehearsal;
mod set;
mod show;
mod start;
mod watch;

use std::time::Duration;

use clap::Subcommand;

use super::report::Outcome;
use crate::config::Config;

#[derive(clap::Args)]
pub(super) struct ReplayCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Have the replicas of a subscriber handle a part of its streams again, beside what is new
    ///
    /// The range is fixed when it begins: what is published later is not in it. A replica that dies leaves the rest to
    /// another one. Handlers whose effect happens once handle each event once more. What handlers publish meanwhile is
    /// counted, and not published, unless --follow-ups is given.
    Start(start::Start),
    /// List replays, the oldest first, and why one does not go on; what is over is kept for 90 days
    List(list::List),
    /// Print all of one: what was asked for, how far it is, why it does not go on, what became of its events
    Show(show::Show),
    /// Follow one to its end; the exit code is 0 when it is done, and 1 when it was cancelled or failed
    Watch(watch::Watch),
    /// Have one stand still
    Pause(set::Pause),
    /// Have a paused one go on where it is, also beside what is still in hand
    Resume(set::Resume),
    /// End one for good; what it has in hand ends
    Cancel(set::Cancel),
}

impl ReplayCommand {
    /// Whether it changes something.
    pub(super) fn changes(&self) -> bool {
        match self.action {
            Action::List(_) | Action::Show(_) | Action::Watch(_) => false,
            Action::Start(_) | Action::Pause(_) | Action::Resume(_) | Action::Cancel(_) => true,
        }
    }

    pub(super) async fn run(&self, config: &Config) -> Outcome {
        match &self.action {
            Action::Start(action) => action.run(config).await,
            Action::List(action) => action.run(config).await,
            Action::Show(action) => action.run(config).await,
            Action::Watch(action) => action.run(config).await,
            Action::Pause(action) => action.run(config).await,
            Action::Resume(action) => action.run(config).await,
            Action::Cancel(action) => action.run(config).await,
        }
    }
}

/// A time that something takes, in words.
fn lasting(time: Duration) -> String {
    let seconds = time.as_secs_f64().ceil();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // whole, and not negative
    let seconds = seconds as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_in_two_units_at_most() {
        let told = |seconds| lasting(Duration::from_secs(seconds));
        assert_eq!(told(0), "0 s");
        assert_eq!(told(61), "1 min 1 s");
        assert_eq!(told(7322), "2 h 2 min");
        assert_eq!(lasting(Duration::from_millis(200)), "1 s");
    }
}
