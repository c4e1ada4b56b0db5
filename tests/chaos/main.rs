//! What may happen to a relay, its database and its NATS while services write: nothing is lost, made up,
//! repeated or turned round, and events flow again. One test is one row of the table that `make chaos` prints.

#![allow(unreachable_pub)] // one binary
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests are tests

#[path = "../suite/support/mod.rs"]
mod support;

mod answers;
mod cluster;
mod database;
mod links;
mod nats;
mod process;
mod relay;
mod table;
mod trial;
