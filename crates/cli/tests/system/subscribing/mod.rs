//! Subscribers whose handlers kill the process or fail for good.

mod crashes;
mod parked_keys;
