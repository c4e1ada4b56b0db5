//! Faults while workers handle.

mod failing_handlers;
mod lost_consumers;
mod ordering;
mod transactional;
