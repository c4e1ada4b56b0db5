//! The thread that serves the endpoints, and checks whether the runtime of the worker runs tasks. It has a small runtime
//! of its own: what blocks the threads of the worker does not block it.

use std::{
    io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    time::Duration,
};

use axum::Router;
use tokio::{runtime::Handle, sync::oneshot, task::JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::OpsError;
use crate::process::Process;

/// How often a task of the worker's runtime notes that it runs.
const TICK: Duration = Duration::from_millis(250);
/// How often the thread looks.
const LOOK: Duration = Duration::from_millis(500);
/// How long requests may take that run when the worker has stopped.
const LAST: Duration = Duration::from_secs(1);

/// The thread; it ends when this is dropped.
pub(super) struct Server {
    end: DropGuard,
    ended: oneshot::Receiver<io::Error>,
    /// Notes on the runtime of the worker that tasks run.
    ticking: JoinSet<()>,
}

/// Binds an address, which only this host can reach unless it is allowed to be public.
pub(super) fn bind(address: &str, is_public: bool) -> Result<TcpListener, OpsError> {
    let failed = |source| OpsError::Bind {
        address: address.to_owned(),
        source,
    };
    let all: Vec<SocketAddr> = address.to_socket_addrs().map_err(failed)?.collect();
    if !is_public && !all.iter().all(|one| one.ip().is_loopback()) {
        let address = address.to_owned();
        return Err(OpsError::Public { address });
    }
    let listener = TcpListener::bind(&*all).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

impl Server {
    /// Starts the thread, which serves the routes if there are any.
    pub(super) fn start(
        process: &Process,
        served: Option<(TcpListener, Router)>,
    ) -> Result<Self, OpsError> {
        let end = CancellationToken::new();
        let (told, ended) = oneshot::channel();
        let mut ticking = JoinSet::new();
        let ticks = process.clone();
        if Handle::try_current().is_ok() {
            ticking.spawn(async move {
                loop {
                    ticks.tick();
                    tokio::time::sleep(TICK).await;
                }
            });
        }
        let thread = std::thread::Builder::new().name("tidings-ops".to_owned());
        let (process, ends) = (process.clone(), end.clone());
        let working = move || {
            if let Err(error) = work(process, served, ends) {
                // The worker may have ended.
                let _ = told.send(error);
            }
        };
        thread.spawn(working).map_err(OpsError::Thread)?;
        Ok(Self {
            end: end.drop_guard(),
            ended,
            ticking,
        })
    }

    /// Waits until it is to stop, or until the thread has ended.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), OpsError> {
        let ended = tokio::select! {
            () = stop.cancelled() => None,
            ended = &mut self.ended => Some(ended),
        };
        match ended {
            Some(ended) => {
                let error = ended.unwrap_or_else(|_| io::Error::other("it has panicked"));
                Err(OpsError::Thread(error))
            }
            None => {
                self.ticking.abort_all();
                drop(self.end);
                // A thread that was stopped reports no error.
                let _ = tokio::time::timeout(LAST, self.ended).await;
                Ok(())
            }
        }
    }
}

/// Checks again and again whether the runtime runs tasks.
async fn look(process: &Process) {
    loop {
        tokio::time::sleep(LOOK).await;
        process.note_ticks(LOOK);
        // It notes for how long each condition has lasted.
        let _ = process.figures();
    }
}

fn work(
    process: Process,
    served: Option<(TcpListener, Router)>,
    end: CancellationToken,
) -> io::Result<()> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build()?;
    runtime.block_on(async {
        let serving = async {
            let Some((listener, routes)) = served else {
                return std::future::pending().await;
            };
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let address = listener.local_addr()?;
            tracing::info!(%address, "health endpoints listening");
            axum::serve(listener, routes).await
        };
        tokio::select! {
            () = end.cancelled() => Ok(()),
            () = look(&process) => Ok(()),
            served = serving => served,
        }
    })
}
