//! `tidings replay list`: the state of all replays. Never changes anything.

use clap::Args;
use tidings::replays::{Replay, ReplayError, ReplayStatus, Replays};

use super::show;
use crate::{
    cli::{connect, output, report::Outcome},
    config::Config,
};

#[derive(Args)]
pub(super) struct List {
    /// Only replays of this subscriber
    subscriber: Option<String>,
    /// Print one JSON object per replay
    #[arg(long)]
    json: bool,
}

const HEAD: [&str; 7] = [
    "id",
    "subscriber",
    "state",
    "done",
    "of",
    "started",
    "issue",
];

impl List {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let replays = Replays::new(&connect(config).await?);
        let mut rows = vec![HEAD.map(str::to_owned)];
        for replay in replays.list(self.subscriber.as_deref()).await? {
            let status = match replays.find(replay.id).await {
                // It was removed in the meantime.
                Err(ReplayError::NoReplay { .. }) => continue,
                status => status?,
            };
            if self.json {
                output::json(&status)?;
            } else {
                rows.push(row(&status));
            }
        }
        match (self.json, rows.len()) {
            (true, _) => Ok(()),
            (false, 1) => Ok(output::line("there are no replays")?),
            (false, _) => Ok(output::table(&rows)?),
        }
    }
}

fn row(status: &ReplayStatus) -> [String; 7] {
    let replay: &Replay = &status.replay;
    [
        replay.id.to_string(),
        replay.subscriber.clone(),
        show::state(replay),
        status.completed().to_string(),
        replay.events().to_string(),
        output::second(replay.created_at),
        status.issue.as_ref().map_or("-".to_owned(), show::issue),
    ]
}
