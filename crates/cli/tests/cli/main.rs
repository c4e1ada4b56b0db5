//! The `tidings` program, command by command, against real servers and both databases.

#![allow(unreachable_pub)] // one binary
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests are test code

#[macro_use]
mod support;

mod dead_letters;
mod doctor;
mod outbox;
mod program;
mod runbooks;
mod service;
mod streams;
mod subscribers;
mod trace;
