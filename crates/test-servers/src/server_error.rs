//! Why a test server could not be used. Owns [`ServerError`]; never prints and never retries.

use std::io;
use std::path::Path;

/// Why a test server could not be found, started or controlled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The server's programs are not on this machine.
    #[error(
        "{programs} not found: set {variable}, extend PATH, or run `make servers` in a checkout of Tidings, which \
         fills .dev; searched {}",
        places.join(", ")
    )]
    NotFound {
        /// The missing programs, for example `nats-server`.
        programs: String,
        /// The environment variable for their location.
        variable: &'static str,
        /// The searched locations, in order.
        places: Vec<String>,
    },
    /// The server ended, or did not answer in time, while it was starting.
    #[error("{server} {reason}; the end of its log:\n{log}")]
    FailedToStart {
        /// The server's program.
        server: &'static str,
        /// How it failed.
        reason: String,
        /// The last lines of its log.
        log: String,
    },
    /// The operating system, or one of the server's own tools, refused a step.
    #[error("could not {action}")]
    Io {
        /// The failed step, for example `create the database orders`.
        action: String,
        /// The underlying error.
        #[source]
        source: io::Error,
    },
}

impl ServerError {
    /// Adds the failed step to an [`io::Error`].
    pub(super) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// The same for a step on one path: `could not <verb> <path>`.
    pub(super) fn path(verb: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::io(format!("{verb} {}", path.display()))
    }
}
