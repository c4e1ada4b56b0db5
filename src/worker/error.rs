//! Why a worker ends with an error. Never decides that it ends.

use std::error::Error;

use crate::{
    handler::subscriber::SubscriberError,
    nats::{BusError, ConnectError},
    preflight::PreflightRefusal,
};

/// Why a worker did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The configuration of a subscriber is invalid.
    #[error(transparent)]
    Subscriber(#[from] SubscriberError),
    /// Two subscribers have the same name.
    #[error("two subscribers are named {0}: a durable belongs to one subscriber")]
    NameTaken(String),
    /// No stream carries an event.
    #[error(
        "no stream takes {subject}, which {subscriber} needs: declare it and run `tidings streams apply`"
    )]
    NoStream {
        /// The subscriber.
        subscriber: String,
        /// The event's name, or the subject of its dead letters.
        subject: String,
    },
    /// It begins at a sequence, but reads several streams.
    #[error(
        "{subscriber} begins at a sequence and reads {}: a sequence is a position in one stream, so begin at a time, \
         or use a subscriber for each stream",
        streams.join(" and ")
    )]
    StartOfStreams {
        /// The subscriber.
        subscriber: String,
        /// Its streams.
        streams: Vec<String>,
    },
    /// NATS did not answer while the worker started.
    #[error("the subscriber {subscriber} cannot be set up")]
    Setup {
        /// The subscriber.
        subscriber: String,
        /// The error of NATS.
        #[source]
        source: BusError,
    },
    /// Background work needs its own connection, and it could not be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Background work ended with an error; the worker has drained.
    #[error("{name} cannot continue")]
    Background {
        /// The work's name.
        name: String,
        /// The error.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Background work ended without an error, and was not told to; the worker has drained.
    #[error("{0} has ended, though nothing told it to: the worker ends with it")]
    Ended(String),
    /// A check at the start has found what loses events; the worker has drained.
    #[error(transparent)]
    Refused(PreflightRefusal),
    /// An internal task of the worker panicked; the worker has drained.
    #[error("a task of the worker panicked: {0}")]
    Panicked(String),
}
