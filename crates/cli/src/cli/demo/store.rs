//! The table of the demo's service, in either database.

use sqlx::{Pool, Postgres, Sqlite};
use tidings::outbox::Store;
use uuid::Uuid;

/// A database on which the demo can run.
pub(super) trait DemoStore: Store + Sized {
    /// Creates the table, and removes the data of an interrupted demo.
    fn set_up(pool: &Pool<Self>) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    /// Removes everything that the demo created.
    fn clean_up(pool: &Pool<Self>) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    /// Counts a change of a user and locks the user's row; 1 is the creation.
    fn change(
        connection: &mut Self::Connection,
        user: Uuid,
    ) -> impl Future<Output = Result<i64, sqlx::Error>> + Send;
}

const CHANGE: &str = "insert into tidings_demo_user (id, changes) values ($1, 1)
    on conflict (id) do update set changes = tidings_demo_user.changes + 1 returning changes";

impl DemoStore for Postgres {
    async fn set_up(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
        Self::clean_up(pool).await?;
        let create =
            "create table tidings_demo_user (id uuid primary key, changes bigint not null)";
        sqlx::raw_sql(create).execute(pool).await.map(drop)
    }

    async fn clean_up(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
        // From the directory, only rows of the demo's users are removed: it may have contained other rows before.
        let remove = "do $$ begin
                set local client_min_messages = warning;
                if to_regclass('tidings_demo_user') is not null then
                    if to_regclass('user_directory') is not null then
                        delete from user_directory where id in (select id from tidings_demo_user);
                        if not exists (select from user_directory) then drop table user_directory; end if;
                    end if;
                    drop table tidings_demo_user;
                end if;
                drop schema if exists tidings_demo cascade;
            end $$";
        sqlx::raw_sql(remove).execute(pool).await.map(drop)
    }

    async fn change(connection: &mut Self::Connection, user: Uuid) -> Result<i64, sqlx::Error> {
        sqlx::query_scalar(CHANGE)
            .bind(user)
            .fetch_one(connection)
            .await
    }
}

impl DemoStore for Sqlite {
    async fn set_up(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
        let create = "create table if not exists tidings_demo_user (id blob primary key, changes integer not null)";
        sqlx::raw_sql(create).execute(pool).await.map(drop)
    }

    async fn clean_up(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
        let remove = "drop table if exists tidings_demo_user";
        sqlx::raw_sql(remove).execute(pool).await.map(drop)
    }

    async fn change(connection: &mut Self::Connection, user: Uuid) -> Result<i64, sqlx::Error> {
        sqlx::query_scalar(CHANGE)
            .bind(user)
            .fetch_one(connection)
            .await
    }
}
