//! Consuming for subscribers: durables, pulls, deliveries and their answers. Never decides what becomes of an event.

pub(in crate::nats) mod answers;
pub(in crate::nats) mod consumer;
pub(in crate::nats) mod credit;
pub(in crate::nats) mod delivery;
pub(in crate::nats) mod durables;
pub(in crate::nats) mod origin;
pub(in crate::nats) mod pull;
pub(in crate::nats) mod retired;
pub(in crate::nats) mod signs;
pub(in crate::nats) mod unconfirmed;
pub(in crate::nats) mod watchdog;
