//! Pieces of asynchronous work. Never decides what is worked on.

pub(crate) mod fence;
pub(crate) mod interrupt;
#[cfg(feature = "outbox")]
pub(crate) mod ticks;
pub(crate) mod yielding;
