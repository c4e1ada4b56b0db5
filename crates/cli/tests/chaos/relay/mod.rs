//! Faults while a relay publishes.

mod answers;
mod cluster;
mod links;
mod nats;
pub mod postgres;
mod processes;
