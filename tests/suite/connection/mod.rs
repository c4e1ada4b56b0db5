//! Connections to NATS.

mod credentials;
mod stopped_clients;
