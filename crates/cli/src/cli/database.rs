//! Opens the database that the configuration names. Whether it is Postgres or SQLite is known at run time only.

use std::{io, time::Duration};

use sqlx::{
    Connection, PgConnection, Postgres, Sqlite,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tidings::{
    Outbox,
    outbox::{DatabaseError, OutboxError},
};

use super::report::{Exit, Report};
use crate::config::{Config, DatabaseUrl};

/// The most time that connecting may take.
const PATIENCE: Duration = Duration::from_secs(5);
const MAX_CONNECTIONS: u32 = 10;

/// The outbox, in either database.
pub(crate) enum Database {
    Postgres(Outbox<Postgres>),
    Sqlite(Outbox<Sqlite>),
}

/// Evaluates one expression with the outbox of either database.
macro_rules! with_outbox {
    ($database:expr, $outbox:ident => $do:expr) => {
        match $database {
            $crate::cli::database::Database::Postgres($outbox) => $do,
            $crate::cli::database::Database::Sqlite($outbox) => $do,
        }
    };
}
pub(crate) use with_outbox;

impl Database {
    /// Opens the database, which must exist.
    ///
    /// # Errors
    /// A report with [`Exit::Unreachable`] when it does not exist or cannot be reached.
    pub(crate) async fn open(config: &Config) -> Result<Self, Report> {
        let database = Self::open_existing(config).await?;
        match with_outbox!(&database, outbox => outbox.check_version().await) {
            Err(error @ OutboxError::Version { .. }) => Err(error.into()),
            // The command itself reports any other error.
            _ => Ok(database),
        }
    }

    /// Opens the database, which must exist, whichever version its tables have.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub(crate) async fn open_existing(config: &Config) -> Result<Self, Report> {
        match &config.database {
            DatabaseUrl::Sqlite(path) if !path.exists() => Err(Report::new(
                Exit::Unreachable,
                format!("there is no database {}", path.display()),
            )
            .cure("tidings migrate, which creates it, or another --database-url")),
            _ => Self::open_or_create(config).await,
        }
    }

    /// Opens the database; a SQLite file is created when it is missing.
    ///
    /// # Errors
    /// A report with [`Exit::Unreachable`] when it cannot be opened.
    pub(crate) async fn open_or_create(config: &Config) -> Result<Self, Report> {
        let unreachable = |error: DatabaseError| {
            let report = Report::new(
                Exit::Unreachable,
                format!("cannot open the database {}", config.database),
            )
            .because(Some(&error));
            match (error.diagnosis(), &config.database) {
                (Some(diagnosis), _) => report.diagnosed(diagnosis),
                (None, DatabaseUrl::Postgres(_)) => {
                    report.cure("start it, or correct --database-url")
                }
                (None, DatabaseUrl::Sqlite(_)) => report.cure("another file with --database-url"),
            }
        };
        Ok(match &config.database {
            DatabaseUrl::Sqlite(path) => {
                let outbox = Outbox::<Sqlite>::open(path).await.map_err(unreachable)?;
                Self::Sqlite(configured(outbox, config)?)
            }
            DatabaseUrl::Postgres(url) => {
                let options: PgConnectOptions = url.parse().map_err(|error: sqlx::Error| {
                    Report::new(Exit::Usage, "database.url is not a Postgres URL")
                        .because(Some(&error))
                        .cure("postgres://USER:PASSWORD@HOST:PORT/DATABASE")
                })?;
                let options = options.application_name("tidings");
                probe(&options)
                    .await
                    .map_err(|error| unreachable(error.into()))?;
                let pool = PgPoolOptions::new()
                    .max_connections(MAX_CONNECTIONS)
                    .acquire_timeout(PATIENCE)
                    .connect_lazy_with(options);
                Self::Postgres(configured(Outbox::new(pool), config)?)
            }
        })
    }
}

fn configured<DB: tidings::outbox::Store>(
    outbox: Outbox<DB>,
    config: &Config,
) -> Result<Outbox<DB>, Report> {
    Ok(outbox.in_schema(&config.schema)?.source(&config.source))
}

/// Connects once without the pool, which would replace the cause by its own timeout.
async fn probe(options: &PgConnectOptions) -> Result<(), sqlx::Error> {
    let connecting = PgConnection::connect_with(options);
    match tokio::time::timeout(PATIENCE, connecting).await {
        Ok(connection) => connection?.close().await,
        Err(_) => Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into())),
    }
}

/// The exit code after a failure of the database. A database that answers is reachable.
pub(crate) fn exit_of(error: &DatabaseError) -> Exit {
    match error.is_unavailable() && error.code().is_none() {
        true => Exit::Unreachable,
        false => Exit::Failed,
    }
}

/// Whether a prepared statement was missing, or existed already: this happens behind a pooler that the configuration
/// does not mention.
pub(crate) fn is_unannounced_pooler(error: &DatabaseError) -> bool {
    const NO_SUCH_STATEMENT: &str = "26000";
    const DUPLICATE_STATEMENT: &str = "42P05";
    let code = error.code();
    code.is_some_and(|code| code == NO_SUCH_STATEMENT || code == DUPLICATE_STATEMENT)
}
