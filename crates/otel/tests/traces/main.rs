//! Each row of the table of spans in the documentation of the package, by the exporter in memory of the SDK.

#![allow(unreachable_pub)] // one binary
#![allow(clippy::unwrap_used)] // helpers of tests are test code

use tidings_test_support::{self as support, both};

mod handlers;
mod inbox;
mod publishing;
mod relays;
mod spans;
