//! Notifies systemd that a worker is ready, what it does, that it makes progress, and that it stops. Reads no environment,
//! and never judges.

mod sent;
mod socket;

use std::{
    error::Error,
    ffi::OsString,
    fmt,
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use tokio_util::sync::CancellationToken;

use super::STUCK_AFTER;
use crate::{
    background::Background,
    judge::{
        Component, Health, IssueKind,
        process::{Part, judge_process, not_alive},
    },
    log::{Lasting, short},
    nats::Bus,
    process::{
        Process,
        figures::{Phase, ProcessFigures},
    },
};
use sent::{Look, Sent};
use socket::Socket;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(500);

/// Notifies systemd of the state of a worker, for a service with `Type=notify`.
///
/// systemd passes the path of its socket in the environment variable `NOTIFY_SOCKET`, and the interval of the watchdog
/// in `WATCHDOG_USEC`. The chapter on systemd has a unit for it.
///
/// * `READY=1` when the worker is set up: its consumers exist, and its relay reads the log or stands by.
/// * `STATUS=` what each part does, and why it does not work.
/// * `WATCHDOG=1` twice in each interval, as long as the runtime runs tasks and no part has stopped without a cause outside
///   this process. It is also sent while NATS or the database is away: a restart would not help.
/// * `STOPPING=1` when the worker begins to drain.
///
/// ```no_run
/// use std::{env, time::Duration};
///
/// use tidings::{Bus, Worker, ops::Systemd, shutdown_signal};
///
/// # async fn example(bus: Bus) -> Result<(), Box<dyn std::error::Error>> {
/// let mut worker = Worker::new(bus, ());
/// if let Some(socket) = env::var_os("NOTIFY_SOCKET") {
///     let interval = env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
///     worker = worker.with(Systemd::notify(socket).watchdog(interval.map(Duration::from_micros)));
/// }
/// worker.run(shutdown_signal()).await?;
/// # Ok(())
/// # }
/// ```
pub struct Systemd {
    socket: OsString,
    watchdog: Option<Duration>,
    stuck_after: Duration,
    process: Process,
}

impl Systemd {
    /// Notifies the systemd that listens on this socket: a path, or the name of an abstract socket after `@`.
    #[must_use]
    pub fn notify(socket: impl Into<OsString>) -> Self {
        Self {
            socket: socket.into(),
            watchdog: None,
            stuck_after: STUCK_AFTER,
            process: Process::default(),
        }
    }

    /// Sets the interval within which systemd expects `WATCHDOG=1`; default none.
    #[must_use]
    pub fn watchdog(mut self, interval: Option<Duration>) -> Self {
        self.watchdog = interval.filter(|interval| !interval.is_zero());
        self
    }

    /// Sets for how long a part that has work may make no progress before it is stuck; default 10 s.
    #[must_use]
    pub fn stuck_after(mut self, stuck_after: Duration) -> Self {
        self.stuck_after = stuck_after;
        self
    }

    /// Notifies systemd until `stop` is cancelled. The task is on the runtime of the worker: while that runs no task,
    /// `WATCHDOG=1` is not sent.
    async fn tell(self, stop: CancellationToken) {
        let interval = self.watchdog.map(|interval| interval / 2);
        let pause = interval.map_or(LOOK, |interval| interval.min(LOOK));
        let socket = Socket::new(&self.socket);
        let mut sent = Sent::new(interval);
        let failures = Lasting::default();
        loop {
            let look = look(&self.process.figures(), self.stuck_after);
            let (text, next) = sent.after(look, Instant::now());
            match socket.send(&text) {
                Ok(()) => sent = next,
                Err(error) => {
                    let error = error.to_string();
                    if let Some(unsaid) = failures.again_as(&error, Instant::now()) {
                        tracing::warn!(
                            error,
                            unsaid,
                            "systemd not notified: the message is sent again"
                        );
                    }
                }
            }
            // The state at the end is sent too: STOPPING=1.
            if stop.is_cancelled() {
                return;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

impl Background for Systemd {
    fn name(&self) -> String {
        "systemd".to_owned()
    }

    fn join(&mut self, process: &Process) {
        self.process = process.clone();
    }

    fn asks_nats(&self) -> bool {
        false
    }

    fn run(
        self: Box<Self>,
        _: Bus,
        stop: CancellationToken,
    ) -> BoxFuture<'static, Result<(), Box<dyn Error + Send + Sync>>> {
        async move {
            self.tell(stop).await;
            Ok(())
        }
        .boxed()
    }
}

impl fmt::Debug for Systemd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Systemd")
            .field("socket", &self.socket)
            .field("watchdog", &self.watchdog)
            .field("stuck_after", &self.stuck_after)
            .finish_non_exhaustive()
    }
}

/// What systemd is notified of.
fn look(figures: &ProcessFigures, stuck_after: Duration) -> Look {
    let parts = judge_process(figures, stuck_after).parts;
    let is_up = |part: &Part| part.is_started() || part.status == Health::Draining;
    Look {
        is_ready: figures.phase != Phase::Starting && parts.iter().all(is_up),
        is_stopping: figures.phase == Phase::Draining,
        makes_progress: not_alive(figures).is_empty() && !parts.iter().any(needs_restart),
        status: status(&parts),
    }
}

/// Whether a part is stuck, and nothing outside this process is known to be the cause.
fn needs_restart(part: &Part) -> bool {
    let kind = part.finding.as_ref().map(|finding| finding.kind);
    let is_own = matches!(
        kind,
        None | Some(
            IssueKind::RuntimeBlocked
                | IssueKind::TaskEnded
                | IssueKind::StandsStill
                | IssueKind::RelayInterrupted
                | IssueKind::NoProgress
        )
    );
    part.status == Health::Stuck && is_own
}

/// One line: the parts, the worst first. Texts of others are cut, and hold no line break, which would begin another
/// message.
fn status(parts: &[Part]) -> String {
    let is_told = |part: &&Part| part.component != Component::Process || part.finding.is_some();
    let mut told: Vec<&Part> = parts.iter().filter(is_told).collect();
    told.sort_by_key(|part| std::cmp::Reverse(part.status));
    let lines: Vec<String> = told.iter().map(|part| part.line()).collect();
    let line = lines.join(" | ");
    let line: String = line.chars().filter(|c| !c.is_control()).collect();
    short(&line).into_owned()
}

#[cfg(test)]
mod tests;
