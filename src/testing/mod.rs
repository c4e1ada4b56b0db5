//! Testing without servers. Never part of a service: the feature `testing`.
//!
//! | to | use |
//! |---|---|
//! | call a handler as the function that it is | [`Context::test`](crate::Context::test), [`TestContext`] |
//! | see what a worker would do: retries, dead letters, order, the inbox | [`TestWorker`] |
//! | find out whether a handler may be run twice | [`assert_idempotent`] |
//! | have a database for `on_once` and for what publishes | `Outbox::temporary`, `published` |
//!
//! All of it needs nothing but `#[tokio::test]`. A nats-server and a Postgres of a test's own are in the crate
//! `tidings-test-servers`.

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
