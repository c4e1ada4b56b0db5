//! The outbox on SQLite, the embedded default. SQLite has one writer at a time, so the order of ids is the order of
//! commits, and the cursor is an id.

mod columns;
mod delayed;
mod home;
mod inbox;
mod locks;
mod log;
mod losses;
mod parked;
mod preflight;
mod relayed;
mod republish;
mod status;
mod traced;

use std::{collections::HashSet, time::Duration};

use sqlx::{Row as _, Sqlite, SqliteConnection, sqlite::SqliteConnectOptions};
use tidings_contract::EventId;

use super::{
    Bound, Checkpoint, Claim, Dialect, HousekeepingStatements, LEDGER_RETENTION, Migration,
    MigrationStatements, Names, Page, Parked, ParkedStatements, Reclaimed, RelayStatements, Rows,
    SessionStatements, StatusStatements, Tenure, Waiting, Written,
    parked::{BlockedOn, Extent, ParkedEvent, ParkedSelection, ParkedSize},
    positions_from, positions_text, sequence,
    status::Status,
};
use columns::{read, rows};

/// The most rows that one reclaim deletes: writers wait meanwhile.
const RECLAIM_ROWS: i64 = 10_000;
const CREATE_MIGRATION_TABLE: &str = "create table if not exists tidings_migration (
    version    integer primary key,
    name       text    not null,
    applied_at integer not null default (cast(unixepoch('subsec') * 1000000 as integer))
)";

impl Dialect for Sqlite {
    const KIND: &'static str = "sqlite";
    /// Immediate: a deferred transaction that reads before it writes fails at once when another one has written
    /// meanwhile, whatever the busy timeout.
    const BEGIN: &'static str = "begin immediate";
    const HAS_ONE_WRITER: bool = true;
    const IS_REMOTE: bool = false;
    const BEGIN_TO_LOOK: Option<&'static str> = None;

    fn is_pooled(_: &SqliteConnectOptions) -> bool {
        false
    }

    fn is_missing_table(error: &sqlx::Error) -> bool {
        error.as_database_error().is_some_and(|error| {
            let message = error.message();
            // A column is missing when the last migrations were not run.
            message.starts_with("no such table")
                || message.starts_with("no such column")
                || message.contains("has no column named")
        })
    }

    fn is_locked_out(error: &sqlx::Error) -> bool {
        locks::is_locked_out(error)
    }

    fn text(names: &Names, statement: &str) -> String {
        names.text(statement, '_')
    }
}

impl MigrationStatements for Sqlite {
    const MIGRATION_TABLE: &'static str = "tidings_migration";
    const MIGRATIONS: &'static [Migration] = &[Migration {
        name: "0001_outbox",
        sql: include_str!("../../../migrations/sqlite/0001_outbox.sql"),
    }];

    fn migration_preamble(names: &Names) -> String {
        format!("{};", names.text(CREATE_MIGRATION_TABLE, '_'))
    }

    async fn begin_migration(
        connection: &mut SqliteConnection,
        names: &Names,
    ) -> Result<i32, sqlx::Error> {
        sqlx::query(names.sql(CREATE_MIGRATION_TABLE, '_'))
            .execute(&mut *connection)
            .await?;
        let version = names.sql(
            "select coalesce(max(version), 0) from tidings_migration",
            '_',
        );
        sqlx::query(version).fetch_one(connection).await?.try_get(0)
    }

    async fn apply_migration(
        connection: &mut SqliteConnection,
        names: &Names,
        version: i32,
        migration: &Migration,
    ) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(names.sql(migration.sql, '_'))
            .execute(&mut *connection)
            .await?;
        let record = "insert into tidings_migration (version, name) values (?, ?)";
        sqlx::query(names.sql(record, '_'))
            .bind(version)
            .bind(migration.name)
            .execute(connection)
            .await
            .map(drop)
    }
}

impl RelayStatements for Sqlite {
    /// The id of the last row that is confirmed or parked.
    type Cursor = i64;

    async fn claim(
        connection: &mut SqliteConnection,
        names: &Names,
        owner: &str,
        lease: Duration,
    ) -> Result<Option<Claim<i64>>, sqlx::Error> {
        let claim = "update tidings_relay
            set owner = ?1, epoch = epoch + 1,
                lease_until = cast(unixepoch('subsec') * 1000000 as integer) + ?2,
                checkpointed_at = cast(unixepoch('subsec') * 1000000 as integer)
            where owner = ?1 or lease_until < cast(unixepoch('subsec') * 1000000 as integer)
            returning epoch, cursor, streams, issues";
        let row = sqlx::query(names.sql(claim, '_'))
            .bind(owner)
            .bind(micros(lease))
            .fetch_optional(connection)
            .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Claim {
            epoch: row.try_get(0)?,
            cursor: row.try_get(1)?,
            streams: positions_from(&row.try_get::<String, _>(2)?)?,
            issues: row.try_get(3)?,
        }))
    }

    async fn checkpoint(
        connection: &mut SqliteConnection,
        names: &Names,
        tenure: &Tenure,
        checkpoint: &Checkpoint<i64>,
    ) -> Result<Option<Written>, sqlx::Error> {
        use sqlx::Connection;

        let mut tx = connection.begin_with(Self::BEGIN).await?;
        let write = "update tidings_relay
            set cursor = coalesce(?3, cursor), streams = ?4,
                lease_until = cast(unixepoch('subsec') * 1000000 as integer) + ?5,
                checkpointed_at = cast(unixepoch('subsec') * 1000000 as integer), issues = ?6
            where owner = ?1 and epoch = ?2";
        let moved = sqlx::query(names.sql(write, '_'))
            .bind(&tenure.owner)
            .bind(tenure.epoch)
            .bind(checkpoint.cursor)
            .bind(positions_text(&checkpoint.streams)?)
            .bind(micros(tenure.lease))
            .bind(&checkpoint.issues)
            .execute(&mut *tx)
            .await?;
        if moved.rows_affected() != 1 {
            tx.rollback().await?;
            return Ok(None);
        }
        let record = "insert into tidings_ledger
                (epoch, first_id, last_id, events, stream, incarnation, first_sequence, last_sequence)
            values (?, ?, ?, ?, ?, ?, ?, ?)";
        for entry in &checkpoint.ledger {
            sqlx::query(names.sql(record, '_'))
                .bind(tenure.epoch)
                .bind(entry.first_id)
                .bind(entry.last_id)
                .bind(entry.events)
                .bind(&entry.stream)
                .bind(&entry.incarnation)
                .bind(sequence(entry.first_sequence))
                .bind(sequence(entry.last_sequence))
                .execute(&mut *tx)
                .await?;
        }
        let returned = serde_json::to_string(&checkpoint.returned)
            .map_err(|error| sqlx::Error::Encode(error.into()))?;
        if !checkpoint.returned.is_empty() {
            // Rows that wait for a stream have no followers. A row that waits for another subject heads its own
            // followers; it is looked up once.
            let following = "with freed (key) as (
                    select distinct key from tidings_parked where id in (select value from json_each(?1))
                      and key is not null and coalesce(blocked_on, '') not like 'stream %'
                ), held (key, id) as materialized (
                    select key, min(id) from tidings_parked where key in (select key from freed)
                      and blocked_on like 'subject %' and id not in (select value from json_each(?1)) group by key
                )
                update tidings_parked as log set unpark_requested_at = cast(unixepoch('subsec') * 1000000 as integer)
                where key in (select key from freed) and blocked_on is null and unpark_requested_at is null
                  and id not in (select value from json_each(?1))
                  and not exists (select 1 from held where held.key = log.key and held.id < log.id)";
            sqlx::query(names.sql(following, '_'))
                .bind(&returned)
                .execute(&mut *tx)
                .await?;
            let delete = "delete from tidings_parked where id in (select value from json_each(?1))";
            sqlx::query(names.sql(delete, '_'))
                .bind(returned)
                .execute(&mut *tx)
                .await?;
        }
        let found =
            "select exists (select 1 from tidings_parked where unpark_requested_at is not null),
                            exists (select 1 from tidings_parked where blocked_on is not null)";
        let found = sqlx::query(names.sql(found, '_'))
            .fetch_one(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(Some(Written {
            is_asked: found.try_get(0)?,
            is_waiting: found.try_get(1)?,
        }))
    }

    async fn write_issues(
        connection: &mut SqliteConnection,
        names: &Names,
        owner: &str,
        issues: &str,
    ) -> Result<(), sqlx::Error> {
        let write_issues = "update tidings_relay set issues = ?2
            where (owner = ?1 or lease_until < cast(unixepoch('subsec') * 1000000 as integer))
              and issues is not ?2";
        sqlx::query(names.sql(write_issues, '_'))
            .bind(owner)
            .bind(issues)
            .execute(connection)
            .await
            .map(drop)
    }

    async fn release(
        connection: &mut SqliteConnection,
        names: &Names,
        tenure: &Tenure,
    ) -> Result<(), sqlx::Error> {
        let release = "update tidings_relay set owner = null, lease_until = 0
            where owner = ? and epoch = ?";
        sqlx::query(names.sql(release, '_'))
            .bind(&tenure.owner)
            .bind(tenure.epoch)
            .execute(connection)
            .await
            .map(drop)
    }

    async fn fetch(
        connection: &mut SqliteConnection,
        names: &Names,
        cursor: &i64,
        bound: Bound,
    ) -> Result<Page<i64>, sqlx::Error> {
        let due_in = match bound.with_due {
            true => delayed::due_in(connection, names).await?,
            false => None,
        };
        let fetch = rows!(
            "?3",
            "from tidings_outbox where id > ?1 order by id limit ?2"
        );
        let found = sqlx::query(names.sql(fetch, '_'))
            .bind(*cursor)
            .bind(i64::try_from(bound.rows).unwrap_or(i64::MAX))
            .bind(i64::try_from(bound.bytes).unwrap_or(i64::MAX))
            .fetch(connection);
        let read = Rows::read(found, |row| read(&row, bound.bytes).map(Some)).await?;
        let Rows { rows, are_cut } = read;
        let next = rows.last().map_or(*cursor, |row| row.id);
        let is_whole = rows.len() < bound.rows && !are_cut;
        Ok(Page {
            rows,
            next,
            is_cut: are_cut,
            is_whole,
            due_in,
        })
    }

    async fn ahead(
        connection: &mut SqliteConnection,
        names: &Names,
        cursor: &i64,
        ids: &[i64],
    ) -> Result<HashSet<i64>, sqlx::Error> {
        relayed::ahead(connection, names, cursor, ids).await
    }
}

impl ParkedStatements for Sqlite {
    async fn park(
        connection: &mut SqliteConnection,
        names: &Names,
        rows: &[Parked],
    ) -> Result<(), sqlx::Error> {
        parked::park(connection, names, rows).await
    }

    async fn parked_keys(
        connection: &mut SqliteConnection,
        names: &Names,
    ) -> Result<Vec<(String, i64)>, sqlx::Error> {
        parked::keys(connection, names).await
    }

    async fn waiting(
        connection: &mut SqliteConnection,
        names: &Names,
    ) -> Result<Waiting, sqlx::Error> {
        parked::waiting(connection, names).await
    }

    async fn returning(
        connection: &mut SqliteConnection,
        names: &Names,
        open: &[BlockedOn],
        behind: i64,
        bound: Bound,
    ) -> Result<Rows, sqlx::Error> {
        parked::returning(connection, names, open, behind, bound).await
    }

    async fn parked_among(
        connection: &mut SqliteConnection,
        names: &Names,
        events: &[EventId],
        behind: i64,
    ) -> Result<Rows, sqlx::Error> {
        parked::among(connection, names, events, behind).await
    }

    async fn parked_sizes(
        connection: &mut SqliteConnection,
        names: &Names,
        selection: &ParkedSelection,
        behind: i64,
        limit: u32,
    ) -> Result<Vec<ParkedSize>, sqlx::Error> {
        parked::sizes(connection, names, selection, behind, limit).await
    }

    async fn parked(
        connection: &mut SqliteConnection,
        names: &Names,
        ids: &[i64],
        extent: Extent,
    ) -> Result<Vec<ParkedEvent>, sqlx::Error> {
        parked::list(connection, names, ids, extent).await
    }

    async fn unpark(
        connection: &mut SqliteConnection,
        names: &Names,
        selection: &ParkedSelection,
    ) -> Result<u64, sqlx::Error> {
        parked::unpark(connection, names, selection).await
    }

    async fn discard(
        connection: &mut SqliteConnection,
        names: &Names,
        ids: &[i64],
        extent: Extent,
    ) -> Result<Vec<ParkedEvent>, sqlx::Error> {
        parked::discard(connection, names, ids, extent).await
    }
}

impl HousekeepingStatements for Sqlite {
    /// Deletes in chunks, so that no writer waits for long. Looks at the oldest rows only: writers wait for the search,
    /// too.
    async fn reclaim(
        connection: &mut SqliteConnection,
        names: &Names,
        cursor: &i64,
        retention: Duration,
    ) -> Result<Reclaimed, sqlx::Error> {
        let events = "delete from tidings_outbox where id in (
                select id from (select id, created_at from tidings_outbox where id <= ?1 order by id limit ?3)
                where created_at < cast(unixepoch('subsec') * 1000000 as integer) - ?2)";
        let events = sqlx::query(names.sql(events, '_'))
            .bind(*cursor)
            .bind(micros(retention))
            .bind(RECLAIM_ROWS)
            .execute(&mut *connection)
            .await?
            .rows_affected();
        let entries = "delete from tidings_ledger where rowid in (
                select rowid from tidings_ledger
                where created_at < cast(unixepoch('subsec') * 1000000 as integer) - ?1
                order by created_at limit ?2)";
        let entries = sqlx::query(names.sql(entries, '_'))
            .bind(micros(LEDGER_RETENTION))
            .bind(RECLAIM_ROWS)
            .execute(connection)
            .await?
            .rows_affected();
        let freed = format!("{events} events, {entries} entries of the ledger");
        Ok(Reclaimed {
            freed: (events + entries > 0).then_some(freed),
            ..Reclaimed::default()
        })
    }
}

impl SessionStatements for Sqlite {
    async fn bound_waits(
        connection: &mut SqliteConnection,
        _: &Names,
        wait: Duration,
    ) -> Result<(), sqlx::Error> {
        locks::bound(connection, wait).await
    }

    async fn locked_by(
        connection: &mut SqliteConnection,
        names: &Names,
    ) -> Result<String, sqlx::Error> {
        locks::locked_by(connection, names).await
    }
}

impl StatusStatements for Sqlite {
    async fn status(
        connection: &mut SqliteConnection,
        names: &Names,
    ) -> Result<Status, sqlx::Error> {
        status::status(connection, names).await
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
