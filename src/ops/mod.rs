//! Health endpoints and metrics of a service while it runs, and its messages to systemd. Never changes anything.
//!
//! ```no_run
//! use tidings::{Bus, Worker, ops::Ops, shutdown_signal};
//!
//! # async fn example(bus: Bus) -> Result<(), Box<dyn std::error::Error>> {
//! let ops = Ops::listen("127.0.0.1:9464");
//! Worker::new(bus, ()).with(ops).run(shutdown_signal()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! | path | answers |
//! |---|---|
//! | `/livez` | 200 unless a restart is needed: the runtime has run no task for more than 30 s, or a task of Tidings has ended. It never depends on NATS or the database. `?verbose` answers with JSON. |
//! | `/readyz` | 200 when each part of this process is ready, else 503; one line for each part. `?of=startup` only asks whether it has started. |
//! | `/readyz/relay`, `/readyz/subscriber/NAME` | The same for one part. |
//! | `/healthz` | JSON with the state of each part, its figures, cause and cure; always 200. |
//! | `/scale/NAME` | JSON with what waits for a subscriber, for an autoscaler; 503 while it is not known. |

mod answers;
mod error;
mod host;
pub mod metrics;
mod routes;
mod server;
mod systemd;

use std::{
    error::Error,
    fmt,
    net::{SocketAddr, TcpListener},
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::Router;
use chrono::{DateTime, Utc};
use futures::{FutureExt, future::BoxFuture};
use tokio_util::sync::CancellationToken;

use crate::{background::Background, nats::Bus, process::Process};
pub use error::OpsError;
use server::Server;
pub use systemd::Systemd;

/// Without progress for this long, a part that has work is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// The health endpoints of a process. Give it to the [`Worker`](crate::Worker) of the process.
///
/// The endpoints are served by a thread of their own, so that they also answer while handlers block the threads of the
/// worker.
pub struct Ops {
    known: Arc<Known>,
    listen: Option<String>,
    is_public: bool,
    stuck_after: Duration,
    also: Router,
    listener: Option<TcpListener>,
    /// From when the worker begins.
    server: Option<Result<Server, OpsError>>,
}

/// The process whose health is reported.
#[derive(Default)]
struct Known {
    process: OnceLock<(Process, DateTime<Utc>)>,
}

/// What the endpoints answer from.
#[derive(Clone)]
struct Health {
    known: Arc<Known>,
    stuck_after: Duration,
}

impl Ops {
    /// Endpoints at this address, such as `127.0.0.1:9464`. With port 0 the system chooses one:
    /// [`bind`](Self::bind) returns it.
    ///
    /// ```
    /// use tidings::ops::Ops;
    ///
    /// let mut ops = Ops::listen("127.0.0.1:0");
    /// let address = ops.bind()?;
    /// assert!(address.port() != 0);
    /// # Ok::<(), tidings::ops::OpsError>(())
    /// ```
    #[must_use]
    pub fn listen(address: impl Into<String>) -> Self {
        Self {
            listen: Some(address.into()),
            ..Self::unserved()
        }
    }

    /// Endpoints that are not served: for a [router](Self::router) in an application of its own. The worker still has
    /// to be given this, so that it knows what runs.
    ///
    /// ```
    /// use tidings::ops::Ops;
    ///
    /// let ops = Ops::unserved();
    /// let app: axum::Router = axum::Router::new().merge(ops.router());
    /// // Worker::new(bus, state).with(ops)
    /// ```
    #[must_use]
    pub fn unserved() -> Self {
        Self {
            known: Arc::default(),
            listen: None,
            is_public: false,
            stuck_after: STUCK_AFTER,
            also: Router::new(),
            listener: None,
            server: None,
        }
    }

    /// Allows an address that other hosts can reach. Everyone who reaches it can read the names of subscribers and
    /// streams, figures, and error texts; payloads, keys and secrets are never shown. Without this, such an address is
    /// an error.
    #[must_use]
    pub fn public(mut self) -> Self {
        self.is_public = true;
        self
    }

    /// Sets for how long a part that has work may make no progress before it is stuck and not ready; default 10 s.
    #[must_use]
    pub fn stuck_after(mut self, stuck_after: Duration) -> Self {
        self.stuck_after = stuck_after;
        self
    }

    /// Serves these routes too, at the same address and by the same thread.
    #[must_use]
    pub fn merge(mut self, routes: Router) -> Self {
        self.also = self.also.merge(routes);
        self
    }

    /// Binds the address now, and returns it. Without a call, the address is bound when the worker begins.
    ///
    /// # Errors
    /// [`OpsError`] when it is public and that was not allowed, or cannot be bound.
    pub fn bind(&mut self) -> Result<SocketAddr, OpsError> {
        let listener = match (self.listener.take(), &self.listen) {
            (Some(listener), _) => listener,
            (None, Some(address)) => server::bind(address, self.is_public)?,
            (None, None) => return Err(OpsError::Unserved),
        };
        let address = listener.local_addr().map_err(|source| OpsError::Bind {
            address: self.listen.clone().unwrap_or_default(),
            source,
        })?;
        self.listener = Some(listener);
        Ok(address)
    }

    /// The endpoints, to be merged into the router of an application. The application's runtime answers then: while
    /// handlers block all of its threads, it does not.
    pub fn router<S: Clone + Send + Sync + 'static>(&self) -> Router<S> {
        routes::routes(self.health())
    }

    fn health(&self) -> Health {
        Health {
            known: Arc::clone(&self.known),
            stuck_after: self.stuck_after,
        }
    }

    fn start(&mut self, process: &Process) -> Result<Server, OpsError> {
        let served = match self.listen {
            None => None,
            Some(_) => {
                self.bind()?;
                let routes = self.router().merge(std::mem::take(&mut self.also));
                let routes = match self.is_public {
                    true => routes,
                    false => host::without_host_names(routes),
                };
                self.listener.take().map(|listener| (listener, routes))
            }
        };
        Server::start(process, served)
    }
}

impl Background for Ops {
    fn name(&self) -> String {
        "ops".to_owned()
    }

    fn join(&mut self, process: &Process) {
        process.is_stuck_after(self.stuck_after);
        if self
            .known
            .process
            .set((process.clone(), Utc::now()))
            .is_err()
        {
            return;
        }
        self.server = Some(self.start(process));
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
            match self.server {
                Some(server) => Ok(server?.run(stop).await?),
                None => Err(OpsError::Alone.into()),
            }
        }
        .boxed()
    }
}

impl fmt::Debug for Ops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ops")
            .field("listen", &self.listen)
            .field("is_public", &self.is_public)
            .field("stuck_after", &self.stuck_after)
            .finish_non_exhaustive()
    }
}
