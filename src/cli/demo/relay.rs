//! The relay as a process of its own, so that it can be killed like one.

use std::{process::Stdio, time::Duration};

use tokio::process::{Child, Command};

use super::servers::Servers;
use crate::cli::report::{Exit, Outcome, Report};

/// How long the relay may take for its last checkpoint.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct RelayProcess(Child);

impl RelayProcess {
    pub(super) fn start(servers: &Servers) -> Result<Self, Report> {
        let child = Command::new(std::env::current_exe()?)
            .args(["--config", "/dev/null", "--log", "error", "relay"])
            .env_clear()
            .envs(servers.environment())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // Not the terminal's Ctrl-C: the demo ends it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self(child))
    }

    /// SIGKILL, in the middle of whatever it does.
    pub(super) async fn kill(&mut self) -> Outcome {
        Ok(self.0.kill().await?)
    }

    /// SIGTERM; it must end with 0.
    pub(super) async fn stop(mut self) -> Outcome {
        let Some(pid) = self.0.id() else {
            return Err(Report::new(Exit::Failed, "the relay has ended by itself"));
        };
        let told = Command::new("kill").arg(pid.to_string()).status().await?;
        let ended = match tokio::time::timeout(PATIENCE, self.0.wait()).await {
            Ok(ended) => ended?,
            Err(_) => return Err(Report::new(Exit::Failed, "the relay does not stop")),
        };
        if told.success() && ended.success() {
            Ok(())
        } else {
            Err(Report::new(
                Exit::Failed,
                format!("the relay ended with {ended}"),
            ))
        }
    }
}
