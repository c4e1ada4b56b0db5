//! Testing without servers, and with real ones. Never part of a service.
//!
//! | to | use |
//! |---|---|
//! | call a handler as the function that it is | [`Context::test`](crate::Context::test), [`TestContext`] |
//! | see what a worker would do: retries, dead letters, order, the inbox | [`TestWorker`] |
//! | find out whether a handler may be run twice | [`assert_idempotent`] |
//! | have a database for `on_once` and for what publishes | `Outbox::temporary`, `published` |
//! | start a nats-server and a Postgres of a test's own | [`NatsServer`], [`PostgresServer`] |
//!
//! All but the last need nothing but `#[tokio::test]`.

mod contents;
mod context;
mod delivered;
mod fate;
mod find;
mod home;
mod idempotence;
mod nats_server;
mod postgres_server;
mod process;
mod recorder;
mod replay;
mod server_error;
mod worker;

#[cfg(all(feature = "failpoints", any(feature = "postgres", feature = "sqlite")))]
pub use crate::outbox::failpoint;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use contents::published;
pub use context::TestContext;
pub use delivered::Delivered;
pub use idempotence::assert_idempotent;
pub use nats_server::{NatsServer, NatsServerOptions};
pub use postgres_server::{PostgresServer, PostgresServerOptions};
pub use server_error::ServerError;
pub use worker::{TestWorker, Waiting};
