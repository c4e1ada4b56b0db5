//! Streams: their declarations and settings, and reading what they store. Never consumes for a subscriber.

pub(in crate::nats) mod declare;
pub(in crate::nats) mod facts;
pub(in crate::nats) mod identity;
pub(in crate::nats) mod limits;
#[cfg(feature = "ops")]
pub(in crate::nats) mod measure;
pub(in crate::nats) mod messages;
pub(in crate::nats) mod objections;
pub(in crate::nats) mod patterns;
#[cfg(feature = "outbox")]
pub(in crate::nats) mod removal;
#[cfg(feature = "outbox")]
pub(in crate::nats) mod resume;
pub(in crate::nats) mod seek;
pub(in crate::nats) mod settings;
pub(in crate::nats) mod setup;
mod single;
#[cfg(feature = "outbox")]
pub(in crate::nats) mod stored;
pub(crate) mod streams;
pub(in crate::nats) mod survey;
pub(in crate::nats) mod tail;
pub(in crate::nats) mod unstored;
pub(in crate::nats) mod whereabouts;
