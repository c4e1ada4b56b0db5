//! What operators do to a running system: inspect, redrive, replay, trace, verify, republish. No room below imports it.

pub mod dead_letters;
pub mod doctor;
mod preflight;
pub mod replays;
#[cfg(feature = "outbox")]
pub mod republish;
pub mod subscribers;
pub mod trace;
#[cfg(feature = "outbox")]
pub mod verify;
