//! Testing without servers. Never part of a service: behind the feature `testing`.
//!
//! | to | use |
//! |---|---|
//! | call a handler as a plain function | [`Context::test`](crate::Context::test), [`TestContext`] |
//! | see what a worker would do: retries, dead letters, order, the inbox | [`TestWorker`] |
//! | check that a handler may be run twice | [`assert_idempotent`] |
//! | have a database for `on_transactional` and for code that publishes | `Outbox::temporary`, `published` |
//!
//! All of it needs only `#[tokio::test]`. The crate `tidings-test-servers` starts a nats-server and a Postgres for a
//! test.

mod contents;
mod context;
mod delivered;
mod fate;
mod idempotence;
mod recorder;
mod replay;
mod worker;

#[cfg(all(feature = "failpoints", feature = "outbox"))]
pub use crate::outbox::failpoint;
#[cfg(feature = "outbox")]
pub use contents::published;
pub use context::TestContext;
pub use delivered::Delivered;
pub use idempotence::assert_idempotent;
pub use worker::{TestWorker, Waiting};
