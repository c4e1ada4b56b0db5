//! The users of `deploy/nats/permissions.conf`.

mod documented;
mod isolation;
mod isolation_by_rights;
mod missing;
