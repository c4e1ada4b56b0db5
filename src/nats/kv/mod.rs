//! What workers share in a key-value bucket: leases, parked keys, replays.

pub(in crate::nats) mod park;
pub(in crate::nats) mod replays;
pub(in crate::nats) mod state;
