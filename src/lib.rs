//! Typed domain events over NATS JetStream, with a transactional outbox.
//!
//! A service changes its database and publishes events about the change in one transaction. Each event then reaches
//! every subscriber, in order, and can be replayed when something went wrong.
//!
//! | to | use |
//! |---|---|
//! | define events | [`Event`], [`Envelope`] |
//! | commit events with the state change | [`Outbox`], [`OutboxTransaction`] |
//! | commit them through another driver than sqlx | [`Enqueue`] |
//! | move them into the stream | [`Relay`] |
//! | publish without a database | [`EventPublisher`] |
//! | handle events | [`EventSubscriber`], [`Handler`](crate::handler::Handler), [`Context`], [`Failure`], [`Retry`] |
//! | handle each event effectively once | [`EventSubscriber::on_transactional`], [`TransactionalHandler`](crate::outbox::TransactionalHandler), [`InboxTransaction`] |
//! | handle batches | [`EventSubscriber::on_batch`], [`EventSubscriber::on_batch_transactional`], [`Batching`], [`BatchResult`] |
//! | limit what a subscriber takes on | [`CircuitBreaker`], [`Rate`] |
//! | run subscribers and relay until shutdown | [`Worker`], [`shutdown_signal`] |
//! | change settings while they run | [`WorkerHandle`](crate::worker::WorkerHandle), [`Adjustment`](crate::worker::Adjustment) |
//! | inspect dead letters and redrive them | [`DeadLetters`](crate::dead_letters::DeadLetters), [`Redriver`](crate::dead_letters::Redriver) |
//! | replay events into a subscriber | [`Replays`](crate::replays::Replays), [`ReplayRequest`](crate::replays::ReplayRequest) |
//! | inspect, pause and resume subscribers | [`Subscribers`](crate::subscribers::Subscribers), [`Instance`](crate::subscribers::Instance) |
//! | compare an outbox with its streams | [`Verify`](crate::verify::Verify) |
//! | find an event | [`Trace`](crate::trace::Trace) |
//! | export metrics | `ops::metrics::Metrics`, behind the feature `ops` |
//! | find out what is wrong | [`Doctor`](crate::doctor::Doctor), [`judge`](crate::judge::judge) |
//! | show whether a process is alive, ready and healthy | `ops::Ops`, behind the feature `ops` |
//! | make traces | [`observer`], and the package `tidings-otel` |
//! | connect, and declare streams | [`Bus`], [`NatsOptions`], [`StreamSpec`] |
//! | test handlers without servers | `testing`, behind the feature of that name |

#![cfg_attr(not(feature = "testing"), allow(dead_code))] // only the test kit calls some functions

mod background;
#[cfg(feature = "outbox")]
mod database_error;
pub mod enqueue;
pub mod error_text;
mod executor;
pub mod handler;
mod instance;
pub mod judge;
mod log;
pub mod nats;
pub mod observer;
mod operations;
#[cfg(feature = "ops")]
pub mod ops;
#[cfg(feature = "outbox")]
pub mod outbox;
mod policy;
mod position;
mod preflight;
#[cfg_attr(not(feature = "ops"), allow(dead_code))] // entered always, read by the endpoints only
mod process;
mod replay;
mod schema;
mod task;
#[cfg(feature = "testing")]
pub mod testing;
pub mod worker;

pub use operations::{dead_letters, doctor, replays, subscribers, trace};
#[cfg(feature = "outbox")]
pub use operations::{republish, verify};

/// What an event consists of: name, version, key, headers and payload, with the errors of each.
pub mod event {
    pub use tidings_contract::{
        Envelope, EnvelopeError, EventId, Extensions, HeaderError, Headers, IntoEnvelope, Name,
        NameError, Pattern, PatternError, event::Event, wire,
    };
}

pub use tidings_contract::{Envelope, EventId, event::Event};
pub use tidings_derive::EventInTidings as Event;

pub use enqueue::Enqueue;
pub use handler::{
    batch::{BatchResult, Batching},
    context::Context,
    subscriber::EventSubscriber,
};
pub use nats::{Bus, EventPublisher, NatsOptions, StreamSpec};
#[cfg(feature = "outbox")]
pub use outbox::{InboxTransaction, Outbox, OutboxTransaction, Relay};
pub use policy::{
    breaker::CircuitBreaker, failure::Failure, rate::Rate, retry::Retry, start::StartFrom,
};
/// The database library whose pools and transactions an [`Outbox`] takes, in the version that it takes.
#[cfg(feature = "outbox")]
pub use sqlx;
pub use worker::{Worker, shutdown_signal};

/// Compiles the Rust blocks of the README and of the book's chapters.
#[cfg(all(doctest, feature = "postgres", feature = "sqlite"))]
mod chapters {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/guide/producing.md")]
    struct Producing;
    #[doc = include_str!("../docs/guide/delayed.md")]
    struct Delayed;
    #[doc = include_str!("../docs/guide/handlers.md")]
    struct Handlers;
    #[doc = include_str!("../docs/guide/batches.md")]
    struct Batches;
    #[doc = include_str!("../docs/guide/ordering.md")]
    struct Ordering;
    #[doc = include_str!("../docs/guide/retries.md")]
    struct Retries;
    #[doc = include_str!("../docs/guide/flow-control.md")]
    struct FlowControl;
    #[doc = include_str!("../docs/guide/replay.md")]
    struct Replay;
    #[doc = include_str!("../docs/guide/testing.md")]
    struct Testing;
    #[cfg(feature = "ops")]
    #[doc = include_str!("../docs/operate/health.md")]
    struct OperateHealth;
    #[doc = include_str!("../docs/operate/adjust.md")]
    struct Adjust;
    #[doc = include_str!("../docs/operate/sqlite.md")]
    struct Sqlite;
    #[cfg(feature = "ops")]
    #[doc = include_str!("../docs/reference/metrics.md")]
    struct Metrics;
    #[doc = include_str!("../docs/operate/systemd.md")]
    struct Systemd;
}
