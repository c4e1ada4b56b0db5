//! A nats-server and a PostgreSQL server for each test: a folder and a port of its own, gone when the value is dropped.
//!
//! ```no_run
//! # async fn example() -> Result<(), tidings_test_servers::ServerError> {
//! use tidings_test_servers::{NatsServer, PostgresServer};
//!
//! let (nats, postgres) = (NatsServer::start().await?, PostgresServer::start().await?);
//! println!("{} {}", nats.url(), postgres.url());
//! # Ok(())
//! # }
//! ```
//!
//! The programs are found, in this order: by the environment variables `TIDINGS_NATS_SERVER` and
//! `TIDINGS_POSTGRES_BIN`; in a folder `.dev` of the working directory or of one above it, where `make servers` of
//! Tidings puts them; on the `PATH`.

mod find;
mod home;
mod nats_server;
mod postgres_server;
mod process;
mod server_error;

pub use nats_server::{NatsServer, NatsServerOptions};
pub use postgres_server::{PostgresServer, PostgresServerOptions};
pub use server_error::ServerError;
