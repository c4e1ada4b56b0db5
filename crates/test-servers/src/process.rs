//! The operating-system process of one test server, and the processes that it forked. Owns starting, signalling and
//! ending it, so that no server outlives the process that started it, even one that was killed. It never knows which
//! server it runs.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::find::Surroundings;
use crate::server_error::ServerError;

const READY_WITHIN: Duration = Duration::from_secs(60);
const STOPPED_WITHIN: Duration = Duration::from_secs(15);
const ORPHAN_WITHIN: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(10);
const LOG_LINES: usize = 20;

/// How to start a server.
#[derive(Debug)]
pub(super) struct Launch {
    /// The server's name in messages.
    pub(super) name: &'static str,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    /// The folder of the log and the process id; also the working directory.
    pub(super) home: PathBuf,
    /// The user to run as; only root can set another one.
    pub(super) user: Option<u32>,
    /// The signal that ends the server at once, when it is dropped or its owner dies.
    pub(super) last_signal: Signal,
}

/// The signals that are sent to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Kill,
    /// Immediate shutdown of Postgres: no checkpoint, but it releases its System V shared memory. A killed server
    /// leaves its segments until the next boot, and the kernel has only 4096.
    Quit,
    /// Graceful shutdown of both nats-server and Postgres.
    Interrupt,
    Pause,
    Resume,
    /// Makes nats-server read its configuration again.
    Reload,
}

/// A started server; ended on drop.
#[derive(Debug)]
pub(super) struct ServerProcess {
    launch: Launch,
    child: Mutex<Child>,
}

impl ServerProcess {
    /// Starts the server, and returns before it is ready.
    ///
    /// # Errors
    /// [`ServerError::Io`] when the program cannot be run.
    pub(super) async fn start(launch: Launch) -> Result<Self, ServerError> {
        let child = Mutex::new(launch.spawn().await?);
        Ok(Self { launch, child })
    }

    /// Starts the server again after the previous process has ended.
    ///
    /// # Errors
    /// [`ServerError::Io`] when the program cannot be run.
    pub(super) async fn start_again(&self) -> Result<(), ServerError> {
        let child = self.launch.spawn().await?;
        *self.child() = child;
        Ok(())
    }

    pub(super) fn id(&self) -> u32 {
        self.child().id()
    }

    /// Waits until `answers` returns true, for at most one minute.
    ///
    /// # Errors
    /// [`ServerError::FailedToStart`] when the server ends before that, or the deadline passes.
    pub(super) async fn wait_until<F, A>(&self, answers: F) -> Result<(), ServerError>
    where
        F: Fn() -> A,
        A: Future<Output = bool>,
    {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if let Some(status) = self.exit_status() {
                return Err(self.failed(format!("ended while starting ({status})")));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if let Ok(true) = tokio::time::timeout(left, answers()).await {
                return Ok(());
            }
            if left.is_zero() {
                let waited = READY_WITHIN.as_secs();
                return Err(self.failed(format!("did not answer within {waited} s")));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Ends the server and every process that it forked, at once and without a chance to clean up.
    ///
    /// # Errors
    /// [`ServerError::Io`] when the operating system refuses.
    pub(super) fn kill(&self) -> Result<(), ServerError> {
        let mut child = self.child();
        end_family(&mut child).map_err(ServerError::io(format!("kill {}", self.launch.name)))
    }

    /// Sends a signal to the server and every process that it forked.
    ///
    /// # Errors
    /// [`ServerError::Io`] when the server does not run.
    pub(super) fn signal_family(&self, signal: Signal) -> Result<(), ServerError> {
        let mut child = self.child();
        let sent = match child.try_wait() {
            Ok(None) => send_to_family(signal, child.id()),
            Ok(Some(_)) => Err(io::Error::other("it is not running")),
            Err(e) => Err(e),
        };
        sent.map_err(ServerError::io(format!("signal {}", self.launch.name)))
    }

    /// Makes the server read its configuration again.
    ///
    /// # Errors
    /// [`ServerError::Io`] when the server does not run.
    pub(super) fn reload(&self) -> Result<(), ServerError> {
        send(Signal::Reload, &[self.id()])
            .map_err(ServerError::io(format!("signal {}", self.launch.name)))
    }

    /// Shuts the server down gracefully, and kills it after 15 seconds. A stopped server stays stopped.
    ///
    /// # Errors
    /// [`ServerError::Io`] when the operating system refuses.
    pub(super) async fn stop(&self) -> Result<(), ServerError> {
        if self.exit_status().is_some() {
            return Ok(());
        }
        self.signal_family(Signal::Resume)?;
        let id = self.id();
        send(Signal::Interrupt, &[id])
            .map_err(ServerError::io(format!("stop {}", self.launch.name)))?;
        let deadline = Instant::now() + STOPPED_WITHIN;
        while self.exit_status().is_none() {
            if Instant::now() > deadline {
                return self.kill();
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    fn exit_status(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    fn failed(&self, reason: String) -> ServerError {
        let log = fs::read(self.launch.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<&str> = log.lines().collect();
        ServerError::FailedToStart {
            server: self.launch.name,
            reason,
            log: lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"),
        }
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let mut child = self.child();
        if self.launch.last_signal == Signal::Quit && quit(&mut child).is_ok() {
            return;
        }
        // Drop cannot report an error; the next process removes what is left.
        let _ = end_family(&mut child);
    }
}

impl Launch {
    async fn spawn(&self) -> Result<Child, ServerError> {
        let child = spawn_from_lasting_thread(self.command()?)
            .await
            .map_err(ServerError::path("run", &self.program))?;
        let id_file = id_file(&self.home);
        fs::write(&id_file, child.id().to_string())
            .map_err(ServerError::path("write", &id_file))?;
        Ok(child)
    }

    fn command(&self) -> Result<Command, ServerError> {
        let log_path = self.log();
        let log = File::create(&log_path).map_err(ServerError::path("create", &log_path))?;
        let errors = log
            .try_clone()
            .map_err(ServerError::path("open", &log_path))?;
        let mut command = match setpriv() {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", self.last_signal.name()]);
                command.arg(&self.program);
                // A Ctrl-C in the terminal is for this process only: a demo drains before its servers end.
                command.process_group(0);
                command
            }
            None => Command::new(&self.program),
        };
        command
            .args(&self.arguments)
            .current_dir(&self.home)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .env("LC_ALL", "C");
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        Ok(command)
    }

    fn log(&self) -> PathBuf {
        self.home.join("log")
    }
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "KILL",
            Self::Quit => "QUIT",
            Self::Interrupt => "INT",
            Self::Pause => "STOP",
            Self::Resume => "CONT",
            Self::Reload => "HUP",
        }
    }
}

/// Ends the server of a home whose owner died: a server that was paused, is still shutting down, or was started on a
/// system without setpriv.
pub(super) fn end_orphan(home: &Path) {
    let Some(id) = orphan(home) else {
        return;
    };
    let _ = send_to_family(Signal::Resume, id);
    let _ = send(Signal::Quit, &[id]);
    let deadline = Instant::now() + ORPHAN_WITHIN;
    while orphan(home).is_some() {
        if Instant::now() > deadline {
            let _ = send_to_family(Signal::Kill, id);
            return;
        }
        thread::sleep(POLL);
    }
}

/// The process id in the home, when that process still runs in the home's folder: another process may have the same id
/// by now.
fn orphan(home: &Path) -> Option<u32> {
    let id: u32 = fs::read_to_string(id_file(home)).ok()?.parse().ok()?;
    let folder = fs::read_link(format!("/proc/{id}/cwd")).ok()?;
    folder.starts_with(home).then_some(id)
}

fn id_file(home: &Path) -> PathBuf {
    home.join("pid")
}

/// Spawns all servers from one thread that lasts as long as the process. The parent-death signal is sent when the
/// *thread* that forked ends, and a test's thread ends before a server that several tests share.
async fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    type Order = (Command, oneshot::Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, incoming) = mpsc::channel::<Order>();
        // When the thread cannot be started, the receiver is dropped, and the send below reports it.
        let _ = thread::Builder::new()
            .name("test-servers".into())
            .spawn(move || {
                for (mut command, reply) in incoming {
                    if let Err(Ok(mut unwanted)) = reply.send(command.spawn()) {
                        let _ = unwanted.kill();
                        let _ = unwanted.wait();
                    }
                }
            });
        orders
    });
    let (reply, answer) = oneshot::channel();
    spawner
        .send((command, reply))
        .map_err(|_| io::Error::other("the thread that starts servers has ended"))?;
    answer.await.map_err(io::Error::other)?
}

/// The program that sets the parent-death signal. The one of busybox does not have the option.
fn setpriv() -> Option<&'static Path> {
    static SETPRIV: OnceLock<Option<PathBuf>> = OnceLock::new();
    SETPRIV
        .get_or_init(|| {
            let setpriv = Surroundings::of_this_process().on_path("setpriv")?;
            let works = Command::new(&setpriv)
                .args(["--pdeathsig", "KILL", "true"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            works
                .is_ok_and(|status| status.success())
                .then_some(setpriv)
        })
        .as_deref()
}

fn quit(child: &mut Child) -> io::Result<()> {
    if child.try_wait()?.is_some() {
        return Ok(());
    }
    send_to_family(Signal::Resume, child.id())?;
    send(Signal::Quit, &[child.id()])?;
    let deadline = Instant::now() + STOPPED_WITHIN;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(POLL);
    }
    Ok(())
}

fn end_family(child: &mut Child) -> io::Result<()> {
    if child.try_wait()?.is_none() {
        // When the list of children cannot be read, the server itself is still ended, so the wait below returns.
        let family = send_to_family(Signal::Kill, child.id());
        child.kill().and(family)?;
    }
    child.wait().map(drop)
}

/// Stops the server first, so that it forks nothing between the listing of its children and the signal.
fn send_to_family(signal: Signal, id: u32) -> io::Result<()> {
    if signal != Signal::Resume {
        hold_still(&[id])?;
    }
    let mut family = children(id);
    family.push(id);
    match signal {
        Signal::Pause => hold_still(&family),
        signal => send(signal, &family),
    }
}

/// Stops the processes and waits until no thread runs. One thread of a process takes the signal; on a busy machine the
/// others keep running until that thread has been scheduled.
fn hold_still(ids: &[u32]) -> io::Result<()> {
    send(Signal::Pause, ids)?;
    let deadline = Instant::now() + STOPPED_WITHIN;
    while !ids.iter().copied().all(is_still) {
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(POLL / 10);
    }
    Ok(())
}

/// Whether no thread of a process runs; true where the system does not report it.
fn is_still(id: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{id}/task"));
    let mut threads = threads.into_iter().flatten().flatten();
    threads.all(|thread| {
        let state = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state follows the last parenthesis: the name before it may contain any character.
        let state = state
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next());
        matches!(state, None | Some('T' | 't' | 'Z' | 'X'))
    })
}

/// The processes that a process forked; empty where the system does not report them.
fn children(id: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let ids = listed.split_whitespace();
    ids.filter_map(|id| id.parse().ok()).collect()
}

/// Sends a signal with the `kill` of the shell: slim images have no program of that name.
fn send(signal: Signal, ids: &[u32]) -> io::Result<()> {
    let sent = Command::new("sh")
        .args(["-c", r#"kill -s "$0" "$@""#, signal.name()])
        .args(ids.iter().map(u32::to_string))
        .stdin(Stdio::null())
        .output()?;
    // A child may end between the listing and the signal. The server itself, last in the list, is not reaped.
    let refused = String::from_utf8_lossy(&sent.stderr).into_owned();
    match sent.status.success() || ids.len() > 1 {
        true => Ok(()),
        false => Err(io::Error::other(refused.trim().to_owned())),
    }
}
