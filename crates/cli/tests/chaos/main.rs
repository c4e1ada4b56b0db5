//! Faults of relay, workers, database and NATS while services write and handlers have effects: no event is lost,
//! invented, duplicated or reordered, and events flow again. One test is one row of the table that `make chaos`
//! prints.

#![allow(unreachable_pub)] // one binary
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests are test code

use harness::{effects, handling, instance, process, table, trial, worker};
use tidings_test_support as support;

mod harness;
mod operations;
mod relay;
mod subscribing;
