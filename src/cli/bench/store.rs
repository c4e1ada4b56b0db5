//! What the bench asks of a database besides the outbox: a business table, and a plain table without
//! our indexes to compare with.

use sqlx::{Pool, Postgres, Sqlite, postgres::PgPoolOptions};
use tidings::{Envelope, Outbox, Store};
use uuid::Uuid;

/// A database that can be measured.
pub(super) trait BenchStore: Store + Sized {
    /// How many writers work side by side.
    const WRITERS: usize;

    async fn connect(url: &str) -> anyhow::Result<Outbox<Self>>;
    async fn prepare(pool: &Pool<Self>) -> Result<(), sqlx::Error>;
    async fn clean_up(pool: &Pool<Self>) -> Result<(), sqlx::Error>;
    fn business(
        connection: &mut Self::Connection,
        id: i64,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    fn plain(
        connection: &mut Self::Connection,
        envelope: &Envelope,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
}

/// The outbox of a bench on servers that were given: its own, so that nothing else is touched.
const SCHEMA: &str = "tidings_bench";
const BUSINESS: &str = "insert into tidings_bench_business (id, name) values ($1, 'somebody')";
const PLAIN: &str = "insert into tidings_bench_plain (event, name, version, key, headers, payload)
    values ($1, $2, $3, $4, $5, $6)";

macro_rules! inserts {
    ($connection:ty) => {
        async fn business(connection: &mut $connection, id: i64) -> Result<(), sqlx::Error> {
            let insert = sqlx::query(BUSINESS).bind(id);
            insert.execute(connection).await.map(drop)
        }

        async fn plain(
            connection: &mut $connection,
            envelope: &Envelope,
        ) -> Result<(), sqlx::Error> {
            sqlx::query(PLAIN)
                .bind(Uuid::from(envelope.id()))
                .bind(envelope.name().as_str())
                .bind(1_i32)
                .bind(envelope.key())
                .bind("{}")
                .bind(envelope.payload().as_ref())
                .execute(connection)
                .await
                .map(drop)
        }
    };
}

impl BenchStore for Postgres {
    const WRITERS: usize = 8;

    async fn connect(url: &str) -> anyhow::Result<Outbox<Self>> {
        let pool = PgPoolOptions::new()
            .max_connections(16)
            .connect(url)
            .await?;
        Ok(Outbox::new(pool).in_schema(SCHEMA)?)
    }

    async fn prepare(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
        Self::clean_up(pool).await?;
        let tables = "
            create table tidings_bench_business (id bigint primary key, name text not null);
            create table tidings_bench_plain (
                id bigint generated always as identity primary key,
                event uuid not null, name text not null, version integer not null, key text,
                headers text not null, payload bytea not null)";
        sqlx::raw_sql(tables).execute(pool).await.map(drop)
    }

    async fn clean_up(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
        let drop_all = "
            set client_min_messages = warning;
            drop table if exists tidings_bench_business, tidings_bench_plain;
            drop schema if exists tidings_bench cascade";
        sqlx::raw_sql(drop_all).execute(pool).await.map(drop)
    }

    inserts!(sqlx::PgConnection);
}

impl BenchStore for Sqlite {
    const WRITERS: usize = 1;

    async fn connect(url: &str) -> anyhow::Result<Outbox<Self>> {
        let path = url.strip_prefix("sqlite:").unwrap_or(url);
        Ok(Outbox::open(path).await?.in_schema(SCHEMA)?)
    }

    async fn prepare(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
        Self::clean_up(pool).await?;
        let tables = "
            create table tidings_bench_business (id integer primary key, name text not null);
            create table tidings_bench_plain (
                id integer primary key autoincrement,
                event blob not null, name text not null, version integer not null, key text,
                headers text not null, payload blob not null)";
        sqlx::raw_sql(tables).execute(pool).await.map(drop)
    }

    async fn clean_up(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
        let drop_all = "
            drop table if exists tidings_bench_business;
            drop table if exists tidings_bench_plain;
            drop table if exists tidings_bench_outbox;
            drop table if exists tidings_bench_relay;
            drop table if exists tidings_bench_ledger;
            drop table if exists tidings_bench_parked;
            drop table if exists tidings_bench_delayed;
            drop table if exists tidings_bench_migration";
        sqlx::raw_sql(drop_all).execute(pool).await.map(drop)
    }

    inserts!(sqlx::SqliteConnection);
}
