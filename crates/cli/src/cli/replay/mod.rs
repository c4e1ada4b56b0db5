//! `tidings replay`: has subscribers handle events again. One file per action.

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
    /// Have the instances of a subscriber handle a part of its streams again, in parallel with new events
    ///
    /// The range is fixed at the start: events that are published later are not part of it. When an instance dies,
    /// another one continues. Transactional handlers handle each event of the range once more. Follow-up events of the
    /// handlers are counted but not published, unless --follow-ups is given.
    Start(start::Start),
    /// List replays, the oldest first, and what stops them; finished replays are kept for 90 days
    List(list::List),
    /// Print one replay in full: its request, its progress, what stops it, and the outcomes of its events
    Show(show::Show),
    /// Follow a replay to its end; exits with 0 when it is done, and with 1 when it was cancelled or failed
    Watch(watch::Watch),
    /// Pause a replay
    Pause(set::Pause),
    /// Resume a paused replay where it stopped, without waiting for events that are still in flight
    Resume(set::Resume),
    /// Cancel a replay permanently; events in flight are completed
    Cancel(set::Cancel),
}

impl ReplayCommand {
    /// Whether the command changes something.
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

/// A duration in words.
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
    fn a_duration_is_shown_in_two_units_at_most() {
        let told = |seconds| lasting(Duration::from_secs(seconds));
        assert_eq!(told(0), "0 s");
        assert_eq!(told(61), "1 min 1 s");
        assert_eq!(told(7322), "2 h 2 min");
        assert_eq!(lasting(Duration::from_millis(200)), "1 s");
    }
}
