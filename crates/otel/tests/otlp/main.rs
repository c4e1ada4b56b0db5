//! Spans as a collector receives them by the OpenTelemetry Protocol, over gRPC and over HTTP.

#![allow(unreachable_pub)] // one binary
#![allow(clippy::unwrap_used)] // helpers of tests are test code

mod collector;
mod one_trace;
mod over_http;
