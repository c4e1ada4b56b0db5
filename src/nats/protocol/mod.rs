//! What Tidings writes into NATS and reads back: headers, subjects, and what they mean. Never sends anything.

pub(in crate::nats) mod codes;
pub(in crate::nats) mod cures;
pub(in crate::nats) mod dead_letter;
pub(in crate::nats) mod headers;
pub(in crate::nats) mod ours;
pub(in crate::nats) mod position;
pub(in crate::nats) mod replay_tag;
pub(in crate::nats) mod retry;
pub(in crate::nats) mod subjects;
pub(in crate::nats) mod unreadable;
