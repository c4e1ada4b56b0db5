//! Publishing: one event, and the batches of the relay.

#[cfg(feature = "outbox")]
pub(in crate::nats) mod batch;
pub(in crate::nats) mod publisher;
