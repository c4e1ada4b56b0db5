//! Why the endpoints cannot be served.

use std::io;

/// Why the endpoints cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpsError {
    /// The address is not one of this host alone.
    #[error(
        "{address} can be reached from other hosts: listen on 127.0.0.1, or allow it with Ops::public, in tidings.toml \
         with [ops] public = true"
    )]
    Public {
        /// The address.
        address: String,
    },
    /// The address cannot be bound.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: String,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The thread of the endpoints cannot be started, or has ended.
    #[error("the thread of the health endpoints has ended, or cannot be started")]
    Thread(#[source] io::Error),
    /// They have no address: the application serves them.
    #[error("the health endpoints have no address: use Ops::listen")]
    Unserved,
    /// The endpoints were run without a process, or in two.
    #[error(
        "the health endpoints belong to no worker, or to two: give each worker an Ops of its own"
    )]
    Alone,
}
