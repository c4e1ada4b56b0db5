//! `tidings config`: every setting in effect and its source, without secrets.

use clap::Args;
use serde_json::json;

use super::{output, report::Outcome};
use crate::config::{Config, Effective};

#[derive(Args)]
pub(super) struct ShowConfig {
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

impl ShowConfig {
    pub(super) fn run(&self, config: &Config) -> Outcome {
        if self.json {
            for Effective { key, value, source } in &config.effective {
                output::json(&json!({ "key": key, "value": value, "source": source.to_string() }))?;
            }
            return Ok(());
        }
        let row = |effective: &Effective| {
            let value = effective.value.clone().unwrap_or_else(|| "-".into());
            let source = effective.source.to_string();
            [effective.key.clone(), value, source]
        };
        let rows: Vec<_> = config.effective.iter().map(row).collect();
        Ok(output::table(&rows)?)
    }
}
