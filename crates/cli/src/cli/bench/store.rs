//! What the bench needs of a database apart from the outbox: a business table, and a plain table without our indexes
//! for comparison.

use std::time::Duration;

use sqlx::{Pool, Postgres, Sqlite, postgres::PgPoolOptions};
use tidings::{Envelope, Outbox, outbox::Store};
use uuid::Uuid;

/// A database that can be measured.
pub(super) trait BenchStore: Store + Sized {
    /// How many writers run concurrently.
    const WRITERS: usize;
    /// How many handlers with a transaction run concurrently.
    const HANDLERS: usize;
    /// How many batches are handled concurrently.
    const BATCHES: usize;

    async fn connect(url: &str) -> anyhow::Result<Outbox<Self>>;
    async fn prepare(pool: &Pool<Self>) -> Result<(), sqlx::Error>;
    async fn clean_up(pool: &Pool<Self>) -> Result<(), sqlx::Error>;
    fn business(
        connection: &mut Self::Connection,
        id: i64,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    /// Writes events into the plain table, in the fastest way for this database.
    fn plain(
        connection: &mut Self::Connection,
        envelopes: &[Envelope],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    /// The row that a handler writes.
    fn effect(
        connection: &mut Self::Connection,
        number: i64,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    /// The rows that a handler of batches writes, in one statement.
    fn effect_of_all(
        connection: &mut Self::Connection,
        numbers: &[i64],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    /// How many rows handlers wrote, and for how many events.
    fn effects(
        pool: &Pool<Self>,
    ) -> impl Future<Output = Result<(usize, usize), anyhow::Error>> + Send;
    /// Adds an event to the plain inbox; false when it is already there.
    fn remember_plainly(
        connection: &mut Self::Connection,
        event: Uuid,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;
    /// Adds events to the plain inbox, in the fastest way for this database. Returns how many were new.
    fn remember_all_plainly(
        connection: &mut Self::Connection,
        events: &[Uuid],
    ) -> impl Future<Output = Result<usize, sqlx::Error>> + Send;
    /// Removes the rows of the handlers and the plain inbox.
    fn empty(pool: &Pool<Self>) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    /// Flushes earlier writes to the disk now, so that this does not happen during a measurement. Skipped without the
    /// permission.
    fn settle(pool: &Pool<Self>) -> impl Future<Output = ()> + Send;
    /// Makes the database count the transactions of all connections in the pool: each connection reports them at the
    /// end of a transaction, at most once per second.
    fn be_counted(pool: &Pool<Self>) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    /// How many transactions the database has ended by its own count; `None` without such a count.
    fn transactions(
        pool: &Pool<Self>,
    ) -> impl Future<Output = Result<Option<i64>, sqlx::Error>> + Send;
}

/// The schema of the bench on given servers: a separate one, so that no other outbox is changed.
pub(super) const SCHEMA: &str = "tidings_bench";
/// The time after which Postgres counts a connection's transactions: at most once per second.
const REPORTED_WITHIN: Duration = Duration::from_millis(1100);
/// The code of a deadlock, and how often the clean-up is tried.
const DEADLOCK: &str = "40P01";
const ATTEMPTS: u32 = 5;
const BUSINESS: &str = "insert into tidings_bench_business (id, name) values ($1, 'somebody')";
const PLAIN: &str = "insert into tidings_bench_plain (event, name, version, key, headers, payload)
    values ($1, $2, $3, $4, $5, $6)";

const EFFECT: &str = "insert into tidings_bench_effect (number, name) values ($1, 'somebody')";
const EFFECTS: &str = "select count(*), count(distinct number) from tidings_bench_effect";
const REMEMBER: &str = "insert into tidings_bench_memory (event, subscriber) values ($1, 'bench') on conflict do nothing";

/// The statement for one event.
macro_rules! one {
    ($envelope:expr) => {
        sqlx::query(PLAIN)
            .bind(Uuid::from($envelope.id()))
            .bind($envelope.name().as_str())
            .bind(1_i32)
            .bind($envelope.key())
            .bind("{}")
            .bind($envelope.payload().as_ref())
    };
}

macro_rules! business {
    ($connection:ty) => {
        async fn business(connection: &mut $connection, id: i64) -> Result<(), sqlx::Error> {
            let insert = sqlx::query(BUSINESS).bind(id);
            insert.execute(connection).await.map(drop)
        }

        async fn effect(connection: &mut $connection, number: i64) -> Result<(), sqlx::Error> {
            let insert = sqlx::query(EFFECT).bind(number);
            insert.execute(connection).await.map(drop)
        }

        async fn remember_plainly(
            connection: &mut $connection,
            event: Uuid,
        ) -> Result<bool, sqlx::Error> {
            let insert = sqlx::query(REMEMBER).bind(event);
            let done = insert.execute(connection).await?;
            Ok(done.rows_affected() == 1)
        }

        async fn effects(pool: &Pool<Self>) -> Result<(usize, usize), anyhow::Error> {
            let (rows, events): (i64, i64) = sqlx::query_as(EFFECTS).fetch_one(pool).await?;
            Ok((rows.try_into()?, events.try_into()?))
        }
    };
}

impl BenchStore for Postgres {
    const WRITERS: usize = 8;
    const HANDLERS: usize = 16;
    const BATCHES: usize = 4;

    async fn connect(url: &str) -> anyhow::Result<Outbox<Self>> {
        let pool = PgPoolOptions::new()
            .max_connections(16)
            .connect(url)
            .await?;
        Ok(Outbox::new(pool).in_schema(SCHEMA)?)
    }

    async fn prepare(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
        Self::clean_up(pool).await?;
        let tables = r#"
            create table tidings_bench_business (id bigint primary key, name text not null);
            create table tidings_bench_effect (number bigint not null, name text not null);
            create table tidings_bench_memory (
                event uuid not null, subscriber text collate "C" not null, primary key (event, subscriber));
            create table tidings_bench_plain (
                id bigint generated always as identity primary key,
                event uuid not null, name text not null, version integer not null, key text,
                headers text not null, payload bytea not null)"#;
        sqlx::raw_sql(tables).execute(pool).await.map(drop)
    }

    async fn clean_up(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
        let drop_all = "
            set client_min_messages = warning;
            drop table if exists tidings_bench_business, tidings_bench_effect, tidings_bench_memory,
                tidings_bench_plain;
            drop schema if exists tidings_bench cascade";
        let mut attempt = 1;
        loop {
            match sqlx::raw_sql(drop_all).execute(pool).await {
                // A statement of the outbox may still run, such as a look for metrics, or housekeeping.
                Err(sqlx::Error::Database(error))
                    if error.code().as_deref() == Some(DEADLOCK) && attempt < ATTEMPTS =>
                {
                    tracing::debug!(attempt, "deadlock while cleaning up: trying again");
                    attempt += 1;
                }
                done => return done.map(drop),
            }
        }
    }

    async fn plain(
        connection: &mut sqlx::PgConnection,
        envelopes: &[Envelope],
    ) -> Result<(), sqlx::Error> {
        if let [envelope] = envelopes {
            return one!(envelope).execute(connection).await.map(drop);
        }
        let insert = "insert into tidings_bench_plain (event, name, version, key, headers, payload)
            select * from unnest($1::uuid[], $2::text[], $3::int[], $4::text[], $5::text[], $6::bytea[])";
        let events: Vec<Uuid> = envelopes.iter().map(|e| e.id().into()).collect();
        let names: Vec<&str> = envelopes.iter().map(|e| e.name().as_str()).collect();
        let keys: Vec<Option<&str>> = envelopes.iter().map(Envelope::key).collect();
        let payloads: Vec<&[u8]> = envelopes.iter().map(|e| e.payload().as_ref()).collect();
        sqlx::query(insert)
            .bind(events)
            .bind(names)
            .bind(vec![1_i32; envelopes.len()])
            .bind(keys)
            .bind(vec!["{}"; envelopes.len()])
            .bind(payloads)
            .execute(connection)
            .await
            .map(drop)
    }

    async fn empty(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
        let truncate = "truncate tidings_bench_effect, tidings_bench_memory";
        sqlx::query(truncate).execute(pool).await.map(drop)
    }

    async fn effect_of_all(
        connection: &mut sqlx::PgConnection,
        numbers: &[i64],
    ) -> Result<(), sqlx::Error> {
        let insert = "insert into tidings_bench_effect (number, name)
            select number, 'somebody' from unnest($1::bigint[]) as number";
        let insert = sqlx::query(insert).bind(numbers);
        insert.execute(connection).await.map(drop)
    }

    async fn remember_all_plainly(
        connection: &mut sqlx::PgConnection,
        events: &[Uuid],
    ) -> Result<usize, sqlx::Error> {
        let insert = "insert into tidings_bench_memory (event, subscriber)
            select event, 'bench' from unnest($1::uuid[]) as event on conflict do nothing";
        let done = sqlx::query(insert).bind(events).execute(connection).await?;
        Ok(usize::try_from(done.rows_affected()).unwrap_or(usize::MAX))
    }

    async fn settle(pool: &Pool<Self>) {
        let settled = sqlx::query("checkpoint").execute(pool).await;
        if let Err(error) = settled {
            tracing::debug!(%error, "checkpoint failed: the measurement starts without one");
        }
    }

    async fn be_counted(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
        let mut held = Vec::new();
        for _ in 0..pool.size() {
            held.push(pool.acquire().await?);
        }
        for connection in &mut held {
            // Twice: the first one may come within the same second, and a transaction that reads nothing is not
            // reported.
            for _ in 0..2 {
                let read = sqlx::query("select from pg_class limit 1");
                read.execute(&mut **connection).await?;
                tokio::time::sleep(REPORTED_WITHIN).await;
            }
        }
        Ok(())
    }

    async fn transactions(pool: &Pool<Self>) -> Result<Option<i64>, sqlx::Error> {
        let count = "select xact_commit + xact_rollback from pg_stat_database
            where datname = current_database()";
        sqlx::query_scalar(count).fetch_one(pool).await.map(Some)
    }

    business!(sqlx::PgConnection);
}

impl BenchStore for Sqlite {
    const WRITERS: usize = 1;
    const HANDLERS: usize = 4;
    const BATCHES: usize = 1;

    async fn connect(url: &str) -> anyhow::Result<Outbox<Self>> {
        let path = url.strip_prefix("sqlite:").unwrap_or(url);
        Ok(Outbox::open(path).await?.in_schema(SCHEMA)?)
    }

    async fn prepare(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
        Self::clean_up(pool).await?;
        let tables = "
            create table tidings_bench_business (id integer primary key, name text not null);
            create table tidings_bench_effect (number integer not null, name text not null);
            create table tidings_bench_memory (
                event blob not null, subscriber text not null, primary key (event, subscriber)) without rowid;
            create table tidings_bench_plain (
                id integer primary key autoincrement,
                event blob not null, name text not null, version integer not null, key text,
                headers text not null, payload blob not null)";
        sqlx::raw_sql(tables).execute(pool).await.map(drop)
    }

    async fn clean_up(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
        let drops = "select 'drop ' || type || ' ' || name from sqlite_schema
            where type in ('table', 'view') and name like 'tidings\\_bench\\_%' escape '\\'
            order by type desc";
        let drops: Vec<String> = sqlx::query_scalar(drops).fetch_all(pool).await?;
        for drop in drops {
            let drop = sqlx::AssertSqlSafe(drop);
            sqlx::raw_sql(drop).execute(pool).await?;
        }
        Ok(())
    }

    async fn plain(
        connection: &mut sqlx::SqliteConnection,
        envelopes: &[Envelope],
    ) -> Result<(), sqlx::Error> {
        for envelope in envelopes {
            one!(envelope).execute(&mut *connection).await?;
        }
        Ok(())
    }

    async fn empty(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
        let delete = "delete from tidings_bench_effect; delete from tidings_bench_memory";
        sqlx::raw_sql(delete).execute(pool).await.map(drop)
    }

    async fn effect_of_all(
        connection: &mut sqlx::SqliteConnection,
        numbers: &[i64],
    ) -> Result<(), sqlx::Error> {
        let insert = "insert into tidings_bench_effect (number, name)
            select value, 'somebody' from json_each($1)";
        let numbers = serde_json::to_string(numbers).unwrap_or_default();
        let insert = sqlx::query(insert).bind(numbers);
        insert.execute(connection).await.map(drop)
    }

    async fn remember_all_plainly(
        connection: &mut sqlx::SqliteConnection,
        events: &[Uuid],
    ) -> Result<usize, sqlx::Error> {
        let mut added = 0;
        for event in events {
            added += usize::from(Self::remember_plainly(&mut *connection, *event).await?);
        }
        Ok(added)
    }

    async fn settle(pool: &Pool<Self>) {
        let settled = sqlx::query("pragma wal_checkpoint(truncate)")
            .execute(pool)
            .await;
        if let Err(error) = settled {
            tracing::debug!(%error, "checkpoint failed: the measurement starts without one");
        }
    }

    async fn be_counted(_: &Pool<Self>) -> Result<(), sqlx::Error> {
        Ok(())
    }

    async fn transactions(_: &Pool<Self>) -> Result<Option<i64>, sqlx::Error> {
        Ok(None)
    }

    business!(sqlx::SqliteConnection);
}
