//! The table `user_directory`: one row per user, written by the handlers. In the outbox's database.

use chrono::{DateTime, Utc};
use sqlx::{PgPool, SqlitePool};
use uuid::Uuid;

use crate::cli::database::Database;

/// The table of users, in either database. The statements are the same in both.
pub(super) enum Directory {
    Postgres { pool: PgPool, is_pooled: bool },
    Sqlite(SqlitePool),
}

/// Runs a statement with its values on either pool.
macro_rules! execute {
    ($directory:expr, $statement:expr $(, $value:expr)*) => {
        match $directory {
            Directory::Postgres { pool, is_pooled } => {
                let statement = sqlx::query($statement)$(.bind($value))*;
                if !is_pooled {
                    return statement.execute(pool).await.map(drop);
                }
                let mut tx = pool.begin().await?;
                statement.persistent(false).execute(&mut *tx).await?;
                tx.commit().await
            }
            Directory::Sqlite(pool) => {
                sqlx::query($statement)$(.bind($value))*.execute(pool).await.map(drop)
            }
        }
    };
}

impl Directory {
    /// The table in this database; it need not exist yet.
    pub(super) fn of(database: &Database) -> Self {
        match database {
            Database::Postgres(outbox) => Self::Postgres {
                pool: outbox.pool().clone(),
                is_pooled: outbox.is_pooled(),
            },
            Database::Sqlite(outbox) => Self::Sqlite(outbox.pool().clone()),
        }
    }

    /// Creates the table, unless it exists. Several processes may do so at once.
    ///
    /// # Errors
    /// The error of the database.
    pub(super) async fn create(&self) -> Result<(), sqlx::Error> {
        match self {
            // Takes a lock, because `if not exists` does not see a table that another transaction is creating.
            Self::Postgres { pool, .. } => {
                let create = "select pg_advisory_xact_lock(7163384699739272);
                    create table if not exists user_directory (
                        id         uuid        primary key,
                        email      text,
                        updated_at timestamptz not null,
                        deleted_at timestamptz
                    )";
                sqlx::raw_sql(create).execute(pool).await.map(drop)
            }
            Self::Sqlite(pool) => {
                let create = "create table if not exists user_directory (
                        id         blob primary key,
                        email      text,
                        updated_at text not null,
                        deleted_at text
                    )";
                sqlx::raw_sql(create).execute(pool).await.map(drop)
            }
        }
    }

    /// Writes the address of a user since `at`; `None` means that the user was deleted.
    ///
    /// A redelivered event finds its own time and changes nothing. A late event finds a newer time and changes nothing.
    ///
    /// # Errors
    /// The error of the database.
    pub(super) async fn put(
        &self,
        user: Uuid,
        email: Option<&str>,
        at: DateTime<Utc>,
    ) -> Result<(), sqlx::Error> {
        let put = "insert into user_directory (id, email, updated_at, deleted_at)
            values ($1, $2, $3, case when $2 is null then $3 end)
            on conflict (id) do update
            set email = excluded.email, updated_at = excluded.updated_at, deleted_at = excluded.deleted_at
            where user_directory.updated_at <= excluded.updated_at";
        execute!(self, put, user, email, at)
    }
}
