//! Subscribers: handlers, batches, retries, flow control, stalls, and where they start.

mod adjusting;
mod batches;
mod blocked_threads;
mod deleted_consumers;
mod faults;
mod flow_control;
mod handlers;
mod log_context;
mod older_copies;
mod resets;
mod retries;
mod rollouts;
mod stalls;
mod start_positions;
mod unhandled_names;
