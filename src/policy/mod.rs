//! What decides about deliveries: plain values without a clock, randomness or I/O.

pub(crate) mod adjustment;
pub(crate) mod breaker;
pub(crate) mod failure;
pub(crate) mod fingerprint;
pub(crate) mod issue_kind;
pub(crate) mod lanes;
pub(crate) mod outcome;
pub(crate) mod preflight;
pub(crate) mod rate;
pub(crate) mod retry;
pub(crate) mod start;
