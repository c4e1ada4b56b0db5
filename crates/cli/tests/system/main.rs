//! The program beside services: the commands of an operator while workers and relays of the library run.

#![allow(unreachable_pub)] // one binary
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests are test code

use tidings_test_support as support;

mod database;
mod permissions;
mod subscribing;
