//! Why a test server could not be used. Owns [`ServerError`]; never prints and never retries.

use std::io;
use std::path::Path;

/// Why a test server could not be found, started or controlled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The server's programs are nowhere on this machine.
    #[error(
        "{programs} not found: run `make servers`, or set {variable}; searched {}",
        places.join(", ")
    )]
    NotFound {
        /// The missing programs, as in `nats-server`.
        programs: String,
        /// The environment variable that names their place.
        variable: &'static str,
        /// Where they were looked for, in that order.
        places: Vec<String>,
    },
    /// The server ended, or did not answer in time, while it was starting.
    #[error("{server} {reason}; the end of its log:\n{log}")]
    FailedToStart {
        /// The server's program.
        server: &'static str,
        /// What was seen of it.
        reason: String,
        /// The last lines it wrote.
        log: String,
    },
    /// The operating system, or one of the server's own tools, refused a step.
    #[error("could not {action}")]
    Io {
        /// The step, as in `create the database orders`.
        action: String,
        /// The refusal.
        #[source]
        source: io::Error,
    },
}

impl ServerError {
    /// Makes an [`io::Error`] say which step it belongs to.
    pub(super) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// The same for a step on one path: `could not <verb> <path>`.
    pub(super) fn path(verb: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::io(format!("{verb} {}", path.display()))
    }
}
