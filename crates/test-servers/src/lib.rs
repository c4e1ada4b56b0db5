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
//! The programs are searched in this order, and the error of a missing one names the rule and the searched folders:
//!
//! 1. the environment variables `TIDINGS_NATS_SERVER` (the path of nats-server) and `TIDINGS_POSTGRES_BIN` (the folder
//!    of initdb, postgres and psql); when they are set, nothing else is searched;
//! 2. a folder `.dev` of the working directory or of one of its ancestors, which `make servers` of Tidings fills;
//! 3. the `PATH`;
//! 4. for Postgres the folder in which Debian installs it, `/usr/lib/postgresql/*/bin`, the newest version first.
//!
//! A test that asks for a major version of Postgres searches all of them for that version.

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
