//! What an operator sees: traces, subscribers, the log.

mod duplicate_ids;
mod log_floods;
mod preflight;
mod subscriber_issues;
mod subscribers;
mod trace;
mod trace_republished;
mod trace_streams;
