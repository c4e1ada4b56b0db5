//! What workers share in a key-value bucket: leases, parked keys, replays. Never decides what an
//! entry means for the work.

pub(in crate::nats) mod park;
pub(in crate::nats) mod replays;
pub(in crate::nats) mod state;
