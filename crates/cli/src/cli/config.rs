//! `tidings config`: every setting in effect and its source, without secrets; `tidings config check`: every fault.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    output,
    report::{Exit, Outcome, Report},
};
use crate::config::{Config, ConfigError, Effective, Flags, Source};

#[derive(Args)]
pub(super) struct ShowConfig {
    /// Print one JSON object per setting or fault
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<ConfigCommand>,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print every fault of the configuration, each with its line and what to do
    ///
    /// Checks the file, the environment and the flags, and that the files of credentials and certificates can be read.
    /// Connects nowhere, and changes nothing. Exits with 0 when there is no fault, and with 2 when there is one.
    Check(Check),
}

#[derive(Args)]
struct Check {
    /// The file to check [default: the configuration file]
    file: Option<PathBuf>,
}

impl ShowConfig {
    /// The subcommand `check`, which reads the configuration by itself.
    pub(super) fn check(&self) -> Option<impl FnOnce(Flags) -> Outcome> {
        let ConfigCommand::Check(check) = self.command.as_ref()?;
        Some(move |flags| check.run(flags, self.json))
    }

    pub(super) fn run(&self, config: &Config) -> Outcome {
        if self.json {
            for Effective {
                key, value, source, ..
            } in &config.effective
            {
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

impl Check {
    fn run(&self, mut flags: Flags, is_json: bool) -> Outcome {
        flags.file = self.file.clone().or(flags.file);
        let (file, faults) = Config::check(flags);
        for fault in faults.iter() {
            match is_json {
                true => output::json(&as_json(fault))?,
                false => {
                    output::line(fault.text())?;
                    if let Some(cure) = fault.cure() {
                        output::line(format!("  try: {cure}"))?;
                    }
                }
            }
        }
        if !faults.is_empty() {
            return Err(Report::told(Exit::Usage));
        }
        let what = file.map_or_else(
            || "environment and flags".to_owned(),
            |file| file.display().to_string(),
        );
        match is_json {
            true => Ok(()),
            false => Ok(output::line(format!("{what}: no fault"))?),
        }
    }
}

fn as_json(fault: &ConfigError) -> serde_json::Value {
    let (file, line) = match fault.place() {
        Some(Source::File { path, line }) => (Some(path.display().to_string()), Some(line)),
        _ => (None, None),
    };
    json!({ "file": file, "line": line, "fault": fault.text(), "cure": fault.cure() })
}
