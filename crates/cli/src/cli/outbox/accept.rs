//! `tidings outbox accept`: what a stream has lost may stay lost.

use clap::Args;

use crate::{
    cli::{
        database::{Database, with_outbox},
        output,
        report::{Exit, Outcome, Report},
    },
    config::Config,
};

/// Says that somebody knows of what a stream has lost and does not want it back: the stream was made anew on
/// purpose, or what is missing was brought in another way. `tidings verify` still names what is missing.
#[derive(Args)]
pub(super) struct AcceptLoss {
    /// The stream
    stream: String,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

impl AcceptLoss {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let database = Database::open(config).await?;
        let accepted = with_outbox!(&database, outbox => outbox.accept_loss(&self.stream).await)?;
        let Some(loss) = accepted else {
            let what = format!("nothing is known to be lost by a stream {}", self.stream);
            return Err(Report::new(Exit::Failed, what).cure("tidings outbox status"));
        };
        Ok(match self.json {
            true => output::json(&loss),
            false => output::line(format!(
                "accepted: stream {} {}",
                loss.stream, loss.standing
            )),
        }?)
    }
}
