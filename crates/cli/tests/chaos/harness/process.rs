//! The program as a process that can be sent signals: `tidings relay`, or another command.

use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::{support::within, table};

/// Killed on drop.
pub struct Process(Child);

impl Process {
    /// A relay on these servers.
    pub fn relay(nats: &str, database: &str) -> Self {
        Self::of(nats, database, &["relay"])
    }

    /// A command on these servers.
    pub fn of(nats: &str, database: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
        // The output is shown when the test fails; it must not mix with the table.
        let said = if table::is_long() {
            Stdio::null()
        } else {
            Stdio::inherit()
        };
        command
            .env_clear()
            .env("TIDINGS_NATS_URL", nats)
            .env("TIDINGS_DATABASE_URL", database)
            .env(
                "TIDINGS_RELAY_LEASE",
                if table::is_long() { "5s" } else { "1s" },
            )
            // A page has several batches, and a second has several pages.
            .env("TIDINGS_RELAY_BATCH", "20")
            .env("TIDINGS_LOG", "warn")
            .current_dir(std::env::temp_dir())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .kill_on_drop(true);
        Self(command.spawn().expect("the program"))
    }

    pub fn id(&self) -> u32 {
        self.0.id().expect("it runs")
    }

    /// Sends a signal, such as STOP.
    pub async fn signal(&self, signal: &str) {
        crate::support::signal(signal, self.id()).await;
    }

    /// Ends it with SIGKILL.
    pub async fn kill(mut self) {
        self.0.kill().await.expect("a signal");
    }

    /// Waits until the process has ended; its exit code.
    pub async fn ended(mut self) -> Option<i32> {
        within("its end", self.0.wait())
            .await
            .expect("a status")
            .code()
    }
}
