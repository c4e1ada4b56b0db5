//! `tidings subscribers prune`: stops the delivery of events that no running instance handles.

use clap::Args;
use tidings::subscribers::Subscribers;

use crate::{
    cli::{connect, output, report::Outcome},
    config::Config,
};

#[derive(Args)]
pub(super) struct Prune {
    /// The subscriber's name
    name: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Prune {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let bus = connect(config).await?;
        let ended = Subscribers::new(&bus).prune(&self.name).await?;
        if self.json {
            return Ok(output::json(&ended)?);
        }
        let name = &self.name;
        if ended.is_empty() {
            return Ok(output::line(format!(
                "{name} gets only the events that its instances handle"
            ))?);
        }
        for (stream, names) in ended {
            let names = names.join(", ");
            output::line(format!("{name} no longer gets from {stream}: {names}"))?;
        }
        Ok(())
    }
}
