//! The `tidings` program, command by command, against real servers and both databases.

#![allow(unreachable_pub)] // one binary
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests are test code

#[macro_use]
mod support;

mod adopt;
mod compose;
mod configuration;
mod dead_letters;
mod delayed;
mod demo;
mod failover;
mod half_trace;
mod hostile;
mod left;
mod migrate;
mod parked;
mod publish;
mod redrives;
mod replay;
mod runbooks;
mod service;
mod status;
mod streams;
mod stuck_subscribers;
mod subscribers;
mod tail;
mod trace;
mod verify;
