//! This program again, in its own process: started, watched, ended. Never knows what it does.

use std::{
    io,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::process::{Child, ChildStdout, Command};

/// How long it may take to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(10);
/// The unit of process times in `/proc`: Linux reports this value to every program on every machine.
const TICKS_PER_SECOND: f64 = 100.0;

pub(crate) struct Process(Child);

impl Process {
    /// Starts the program with only the settings in `environment`.
    ///
    /// # Errors
    /// The error of the operating system.
    pub(crate) fn start(
        arguments: &[&str],
        environment: &[(&str, String)],
        stdout: Stdio,
    ) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["--config", "/dev/null", "--log", "error"])
            .args(arguments)
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(stdout)
            // Keeps the terminal's Ctrl-C from it: the parent ends it.
            .process_group(0)
            .kill_on_drop(true);
        command.spawn().map(Self)
    }

    /// Its output, when stdout is a pipe that was not taken yet.
    pub(crate) fn stdout(&mut self) -> Option<ChildStdout> {
        self.0.stdout.take()
    }

    /// Its peak memory, in bytes; `None` where there is no `/proc`.
    pub(crate) fn peak_memory(&self) -> Option<u64> {
        memory(&self.0.id()?.to_string(), "VmHWM:")
    }

    /// Its processor time, in seconds; `None` where there is no `/proc`.
    pub(crate) fn core_seconds(&self) -> Option<f64> {
        core_seconds(&self.0.id()?.to_string())
    }

    /// Checks that it still runs.
    ///
    /// # Errors
    /// Its exit status, when it has ended by itself.
    pub(crate) fn still_runs(&mut self) -> io::Result<()> {
        match self.0.try_wait()? {
            None => Ok(()),
            Some(ended) => Err(by_itself(ended)),
        }
    }

    /// Ends it with SIGKILL, at any point of its work.
    ///
    /// # Errors
    /// The error of the operating system.
    pub(crate) async fn kill(&mut self) -> io::Result<()> {
        self.0.kill().await
    }

    /// Ends it with SIGTERM. It must exit with 0.
    ///
    /// # Errors
    /// That it does not end in time, or its other exit status.
    pub(crate) async fn stop(mut self) -> io::Result<()> {
        self.still_runs()?;
        let pid = self.0.id().unwrap_or_default();
        let told = Command::new("kill").arg(pid.to_string()).status().await?;
        let ended = match tokio::time::timeout(PATIENCE, self.0.wait()).await {
            Ok(ended) => ended?,
            Err(_) => return Err(io::Error::other("a process of the command does not stop")),
        };
        match told.success() && ended.success() {
            true => Ok(()),
            false => Err(by_itself(ended)),
        }
    }
}

/// The resident memory of this process, in bytes; `None` where there is no `/proc`.
pub(crate) fn memory_of_this() -> Option<u64> {
    memory("self", "VmRSS:")
}

/// The processor time of this process, in seconds; `None` where there is no `/proc`.
pub(crate) fn core_seconds_of_this() -> Option<f64> {
    core_seconds("self")
}

fn core_seconds(of: &str) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{of}/stat")).ok()?;
    // The name, in parentheses, may contain any character. User and system time are fields 14 and 15.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

fn memory(of: &str, kind: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{of}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(kind))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

fn by_itself(ended: ExitStatus) -> io::Error {
    io::Error::other(format!("a process of the command ended with {ended}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn memory_and_time_of_a_process_are_read() {
        let child = Command::new("sleep")
            .arg("60")
            .kill_on_drop(true)
            .spawn()
            .expect("sleep");
        let mut process = Process(child);
        // Between fork and exec the child has no memory of its own.
        let is_there = async {
            while process.peak_memory().is_none_or(|bytes| bytes <= 4096) {
                tokio::task::yield_now().await;
            }
        };
        let is_there = tokio::time::timeout(PATIENCE, is_there).await;
        is_there.expect("/proc tells its memory");
        assert!((0.0..10.0).contains(&process.core_seconds().expect("/proc")));
        process.still_runs().expect("it sleeps");
        process.kill().await.expect("it can be killed");
        assert!(process.still_runs().is_err());
    }
}
