//! The program beside services: what an operator does with it while workers and relays of the library are at work.

#![allow(unreachable_pub)] // one binary
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests are tests

extern crate tidings_test_support as support;

mod crashes;
mod isolation;
mod isolation_by_rights;
mod parked_keys;
mod permissions;
mod pooler;
mod rights;
