//! Real servers for tests, the demo and the bench, and for users' own tests. Never part of a service.

mod find;
mod home;
mod nats_server;
mod postgres_server;
mod process;
mod server_error;

#[cfg(all(feature = "failpoints", any(feature = "postgres", feature = "sqlite")))]
pub use crate::outbox::failpoint;
pub use nats_server::{NatsServer, NatsServerOptions};
pub use postgres_server::{PostgresServer, PostgresServerOptions};
pub use server_error::ServerError;
