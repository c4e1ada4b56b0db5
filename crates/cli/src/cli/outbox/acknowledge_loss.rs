//! `tidings outbox acknowledge-loss`: acknowledges the loss of a stream. Never republishes.

use clap::Args;

use crate::{
    cli::{
        database::{Database, with_outbox},
        output,
        report::{Exit, Outcome, Report},
    },
    config::Config,
};

#[derive(Args)]
pub(super) struct AcknowledgeLoss {
    /// The stream's name
    stream: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl AcknowledgeLoss {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let database = Database::open(config).await?;
        let accepted =
            with_outbox!(&database, outbox => outbox.acknowledge_loss(&self.stream).await)?;
        let Some(loss) = accepted else {
            let what = format!("no loss of a stream {} is known", self.stream);
            return Err(Report::new(Exit::Failed, what).cure("tidings outbox status"));
        };
        Ok(match self.json {
            true => output::json(&loss),
            false => output::line(format!(
                "acknowledged: stream {} {}",
                loss.stream, loss.state
            )),
        }?)
    }
}
