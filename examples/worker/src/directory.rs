//! The table `user_directory`: one row per user, written from the events.

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

/// The table of users.
pub(crate) struct Directory {
    pool: PgPool,
}

impl Directory {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Creates the table if it does not exist. Several processes may do so at once.
    pub(crate) async fn create(&self) -> Result<(), sqlx::Error> {
        // The lock: `if not exists` does not see what another transaction is creating.
        let create = "select pg_advisory_xact_lock(7163384699739272);
            create table if not exists user_directory (
                id         uuid        primary key,
                email      text,
                updated_at timestamptz not null,
                deleted_at timestamptz
            )";
        sqlx::raw_sql(create).execute(&self.pool).await.map(drop)
    }

    /// Whether the table can be used.
    pub(crate) async fn check(&self) -> Result<(), sqlx::Error> {
        let look = "select id, email, updated_at, deleted_at from user_directory limit 0";
        sqlx::query(look).execute(&self.pool).await.map(drop)
    }

    /// Writes the state of a user at `at`; no address means that the user was deleted.
    ///
    /// A redelivered event finds its own time and changes nothing; an event that arrives after a newer one finds a
    /// later time.
    pub(crate) async fn put(
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
        let put = sqlx::query(put).bind(user).bind(email).bind(at);
        put.execute(&self.pool).await.map(drop)
    }
}
