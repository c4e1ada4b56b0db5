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
//! | handle events | [`EventSubscriber`], [`Handler`], [`Context`], [`Failure`], [`Retry`] |
//! | handle each event effectively once | [`EventSubscriber::on_transactional`], [`TransactionalHandler`], [`InboxTransaction`] |
//! | handle batches | [`EventSubscriber::on_batch`], [`EventSubscriber::on_batch_transactional`], [`Batching`], [`BatchResult`] |
//! | limit what a subscriber takes on | [`CircuitBreaker`], [`Rate`] |
//! | run subscribers and relay until shutdown | [`Worker`], [`shutdown_signal`] |
//! | inspect dead letters and redrive them | [`DeadLetters`], [`Redriver`] |
//! | replay events into a subscriber | [`Replays`], [`ReplayRequest`] |
//! | inspect, pause and resume subscribers | [`Subscribers`], [`Instance`] |
//! | compare an outbox with its streams | [`Verify`] |
//! | find an event | [`Trace`] |
//! | connect, and declare streams | [`Bus`], [`NatsOptions`], [`StreamSpec`] |
//! | test handlers without servers | `testing`, behind the feature of that name |

#![cfg_attr(not(feature = "testing"), allow(dead_code))] // only the test kit calls some functions

mod background;
mod breaker;
mod context;
mod dead_letter;
mod error_text;
mod executor;
mod failure;
mod fingerprint;
mod handler;
mod housekeeping;
mod in_flight;
mod instance;
mod interrupt;
mod job;
mod lanes;
mod log;
mod nats;
#[cfg(feature = "outbox")]
mod outbox;
mod outcome;
mod position;
mod rate;
mod replay;
mod replaying;
#[cfg(feature = "outbox")]
mod republish;
mod retry;
mod schema;
mod start;
mod statement;
mod subscriber;
mod subscribers;
mod tally;
#[cfg(feature = "testing")]
pub mod testing;
mod throttle;
mod trace;
#[cfg(feature = "outbox")]
mod verify;
mod worker;
mod yielding;

pub use background::Background;
pub use breaker::CircuitBreaker;
pub use context::Context;
pub use dead_letter::{
    DeadLetterGroup, DeadLetterReader, DeadLetterSelection, DeadLetters, DeadLettersError, Edit,
    KeyRedrive, KeyStep, ParkedKey, RedriveFates, RedriveWatch, Redriver, StoredDeadLetter,
};
pub use error_text::error_texts;
pub use failure::Failure;
pub use handler::{
    Handler,
    batch::{BatchContext, BatchHandler, BatchResult, Batching, Item},
};
pub use instance::{Activity, HotKey, Instance, WantedConsumer};
pub use job::{
    Rehearsal, RehearsedEvents, Replay, ReplayIssue, ReplayPoint, ReplayProgress, ReplayRange,
    ReplayRequest, ReplayState, StreamProgress, UndecodableEvent,
};
pub use nats::{
    Auth, Bus, BusError, ConnectError, EventPublisher, NatsIdentity, NatsOptions, PublishError,
    Reader, ReaderError, Seen, Tls, TooLarge, setting_text,
    streams::{Plan, StreamNameError, StreamSpec},
};
#[cfg(feature = "postgres")]
pub use outbox::{AdoptError, AdoptedEvent, Adoption};
#[cfg(feature = "outbox")]
pub use outbox::{
    BatchTransactionalHandler, DelayedEvent, Diagnosis, ElsewhereError, HeldSlot, InboxTransaction,
    Issue, LastBatch, LeaseStatus, Loss, MigrateError, NatsMove, Outbox, OutboxError,
    OutboxTransaction, ParkedEvent, ParkedSelection, Relay, RelayError, RelayInstance,
    RepublishError, Standing, Status, Store, TransactionalHandler,
};
pub use outcome::{Cause, DeadLetter, Outcome};
pub use rate::Rate;
pub use replay::{ReplayConsumer, ReplayError, ReplayStatus, Replays};
pub use replaying::{ReplayId, ReplayIdError};
#[cfg(feature = "outbox")]
pub use republish::{Republish, Republished};
pub use retry::Retry;
pub use schema::SchemaError;
/// The database library whose pools and transactions an [`Outbox`] takes, in the version that it takes.
#[cfg(feature = "outbox")]
pub use sqlx;
pub use start::StartFrom;
pub use statement::{Enqueue, EnqueueError, EnqueueStatement};
pub use subscriber::{EventSubscriber, OnExhausted, SubscriberError};
pub use subscribers::{
    ConsumerDrift, MissingConsumer, OtherConsumer, RemoveError, RemovedConsumer, ResetError,
    StreamReset, SubscriberConsumer, SubscriberIssue, SubscriberOverview, SubscriberRemoval,
    SubscriberReset, SubscriberState, Subscribers, SubscribersError, WaitingRetries,
};
pub use tidings_contract::{
    Envelope, EnvelopeError, EventId, Extensions, HeaderError, Headers, IntoEnvelope, Name,
    NameError, Pattern, PatternError, event::Event, wire,
};
pub use tidings_derive::EventInTidings as Event;
pub use trace::{
    DeadLetterTrace, DeliveryTrace, InboxTrace, OutboxTrace, ReplayTrace, RetryTrace, Searched,
    Sought, StoredEvent, SubscriberTrace, Trace, TraceError, Traced, TracedBatch, TracedEvent,
    TracedOutcome,
};
#[cfg(feature = "outbox")]
pub use verify::{
    Difference, DifferenceKind, Repair, RepairError, Verification, VerifiedStream, Verify,
    VerifyError,
};
pub use worker::{Worker, WorkerError, shutdown_signal};

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
    #[doc = include_str!("../docs/operate/sqlite.md")]
    struct Sqlite;
}
