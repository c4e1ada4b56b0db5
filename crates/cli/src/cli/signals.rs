//! The signals of a service: SIGTERM and Ctrl-C stop it, SIGHUP has it read its configuration again. Never stops or
//! reads anything itself.

use std::{fs::File, io, sync::Arc};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;

use super::report::Exit;

/// What the signals ask for.
#[derive(Clone, Default)]
pub(super) struct Signals {
    /// Cancelled when the service is to stop.
    pub(super) stop: CancellationToken,
    /// Notified when it is to read its configuration again.
    pub(super) reload: Arc<Notify>,
}

impl Signals {
    /// Listens from now on. A second signal to stop ends the program at once.
    ///
    /// # Errors
    /// The error of the operating system.
    pub(super) fn listen() -> io::Result<Self> {
        let signals = Self::default();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let hangup = signal(SignalKind::hangup())?;
        tokio::spawn(signals.clone().hear(terminate, interrupt, hangup));
        Ok(signals)
    }

    async fn hear(self, mut terminate: Signal, mut interrupt: Signal, mut hangup: Signal) {
        let had_terminal = has_terminal();
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                _ = hangup.recv() => "SIGHUP",
            };
            tracing::info!(signal = name, "signal received");
            // A terminal that is closed sends SIGHUP too. By then the processes that it had have none.
            let is_closed = had_terminal && !has_terminal();
            if name == "SIGHUP" && !is_closed {
                self.reload.notify_one();
                continue;
            }
            if self.stop.is_cancelled() {
                std::process::exit(Exit::Failed as i32);
            }
            self.stop.cancel();
        }
    }
}

/// Whether a terminal controls this process.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}
