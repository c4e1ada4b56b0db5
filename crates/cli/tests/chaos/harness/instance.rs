//! A worker that is restarted whenever it ends, as an orchestrator does. Never decides what it handles.

use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    sync::watch,
    task::JoinHandle,
};

use crate::{
    support::within,
    worker::{DATABASE, KIND, Kind, NATS, NUMBER, TEST},
};

/// The settings of one instance.
#[derive(Clone)]
pub struct Orders {
    pub kind: Kind,
    pub nats: String,
    pub database: String,
    pub number: usize,
    /// The file for the logs of the instance.
    pub log: PathBuf,
}

/// Killed on drop.
pub struct Instance {
    pub number: usize,
    process: watch::Receiver<Option<u32>>,
    keeping: JoinHandle<()>,
}

impl Instance {
    pub fn start(orders: Orders) -> Self {
        let (is, process) = watch::channel(None);
        let number = orders.number;
        let keeping = tokio::spawn(async move {
            loop {
                let mut child = orders.spawn();
                is.send_replace(child.id());
                let _ = child.wait().await;
                is.send_replace(None);
                // real time: the least time that an orchestrator takes
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        Self {
            number,
            process,
            keeping,
        }
    }

    /// Sends a signal, such as STOP, to the running process, or to the next one.
    pub async fn signal(&self, signal: &str) {
        let mut process = self.process.clone();
        let running = process.wait_for(Option::is_some);
        let id = within("a process", running)
            .await
            .expect("its keeper")
            .expect("its id");
        let mut kill = Command::new("kill");
        kill.arg(format!("-{signal}")).arg(id.to_string());
        // The process may have ended by itself meanwhile.
        kill.stderr(Stdio::null()).status().await.expect("kill");
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

impl Orders {
    fn spawn(&self) -> Child {
        let program = std::env::current_exe().expect("this program");
        Command::new(program)
            .args([TEST, "--exact", "--nocapture"])
            .env(NATS, &self.nats)
            .env(DATABASE, &self.database)
            .env(KIND, self.kind.name())
            .env(NUMBER, self.number.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(appended(&self.log))
            .kill_on_drop(true)
            .spawn()
            .expect("a worker")
    }
}

fn appended(path: &Path) -> Stdio {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.expect("a log").into()
}
