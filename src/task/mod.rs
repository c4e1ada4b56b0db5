//! Pieces of asynchronous work. Never decides what is worked on.

pub(crate) mod fence;
pub(crate) mod interrupt;
pub(crate) mod yielding;
