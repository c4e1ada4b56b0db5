//! Publishing: one event, the batches of the relay, dead letters. Never decides what is published.

#[cfg(feature = "outbox")]
pub(in crate::nats) mod batch;
mod dead_letter;
pub(in crate::nats) mod publisher;
#[cfg(feature = "outbox")]
pub(in crate::nats) mod refusal;
