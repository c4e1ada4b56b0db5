//! `tidings replay pause`, `resume` and `cancel`: change the state of a replay.

use clap::Args;
use tidings::replays::{Replay, ReplayError, ReplayId, Replays};

use crate::{
    cli::{connect, output, report::Outcome},
    config::Config,
};

#[derive(Args)]
struct Which {
    /// The replay's id, as `list` prints it
    id: ReplayId,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Pause {
    #[command(flatten)]
    which: Which,
}

#[derive(Args)]
pub(super) struct Resume {
    #[command(flatten)]
    which: Which,
}

#[derive(Args)]
pub(super) struct Cancel {
    #[command(flatten)]
    which: Which,
}

impl Pause {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let replays = Replays::new(&connect(config).await?);
        self.which.tell(replays.pause(self.which.id).await)
    }
}

impl Resume {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let replays = Replays::new(&connect(config).await?);
        self.which.tell(replays.resume(self.which.id).await)
    }
}

impl Cancel {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let replays = Replays::new(&connect(config).await?);
        self.which.tell(replays.cancel(self.which.id).await)
    }
}

impl Which {
    fn tell(&self, replay: Result<Replay, ReplayError>) -> Outcome {
        let replay = replay?;
        if self.json {
            return Ok(output::json(&replay)?);
        }
        let Replay { id, state, .. } = replay;
        let state = state.as_str();
        Ok(output::line(format!("the replay {id} is {state}"))?)
    }
}
