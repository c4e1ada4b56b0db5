//! What decides about deliveries: plain values without a clock, randomness or I/O.

pub(crate) mod breaker;
pub(crate) mod failure;
pub(crate) mod fingerprint;
pub(crate) mod lanes;
pub(crate) mod outcome;
pub(crate) mod rate;
pub(crate) mod retry;
pub(crate) mod start;
