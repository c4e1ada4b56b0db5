//! A nats-server and a PostgreSQL server for each test, each with its own folder and port, removed when the value is
//! dropped.
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
//! The programs are searched in this order: the environment variables `TIDINGS_NATS_SERVER` and `TIDINGS_POSTGRES_BIN`;
//! a folder `.dev` of the working directory or of one of its ancestors, which `make servers` of Tidings fills; the
//! `PATH`.

mod find;
mod home;
mod nats_server;
mod postgres_server;
mod process;
mod server_error;

pub use nats_server::{NatsServer, NatsServerOptions};
pub use postgres_server::{PostgresServer, PostgresServerOptions};
pub use server_error::ServerError;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
