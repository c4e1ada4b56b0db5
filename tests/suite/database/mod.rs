//! The databases below the outbox: locks, lost clients, roles, versions, moves, storage.

mod dead_clients;
mod error_messages;
mod half_open_links;
mod locks;
mod restore_and_failover;
mod retention;
mod roles;
mod schema_versions;
mod upgrade;
