//! The promises of Tidings, against a real nats-server and real databases. Most tests run on Postgres and on SQLite.

#![allow(unreachable_pub)] // one binary
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests are test code

use tidings_test_support::{self as support, both};

mod connection;
mod database;
mod dead_letters;
mod inbox;
mod operations;
mod ops;
mod ordering;
mod outbox;
mod quickstart;
mod relay;
mod repair;
mod replay;
mod streams;
mod subscribing;
mod testing;
mod wire;
