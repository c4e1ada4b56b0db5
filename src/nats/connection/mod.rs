//! The connection to NATS: options, credentials, rights, and whether it is alive. Never publishes or consumes.

pub(in crate::nats) mod client;
pub(in crate::nats) mod connect;
pub(in crate::nats) mod credentials;
pub(in crate::nats) mod denied;
pub(in crate::nats) mod link;
pub(in crate::nats) mod nats_identity;
pub(in crate::nats) mod options;
pub(in crate::nats) mod rights;
pub(in crate::nats) mod version;
