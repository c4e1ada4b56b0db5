//! Delayed events on SQLite: a table that is read in the order (due, place). Never makes the relay wait for a long
//! writer.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Row as _, Sqlite, SqliteConnection, sqlite::SqliteRow};
use tidings_contract::{EventId, wire};

use super::columns::{bytes, integer, moment, shown};
use crate::outbox::store::{
    Dialect, Names,
    columns::{event_or_nil, nearest_version},
    delayed::{Delayed, DelayedEvent, DelayedStatements, due_in as until},
};

/// How long a move waits for the lock of the file, in milliseconds. The relay reads nothing meanwhile.
const PATIENCE: i64 = 50;

impl DelayedStatements for Sqlite {
    async fn delay(
        connection: &mut SqliteConnection,
        names: &Names,
        events: &[Delayed],
    ) -> Result<(), sqlx::Error> {
        let insert =
            "insert into tidings_delayed (event, due, name, version, key, headers, payload)
            values (?, ?, ?, ?, ?, ?, ?)";
        for Delayed { envelope, due } in events {
            sqlx::query(names.sql(insert, '_'))
                .bind(envelope.id().as_uuid())
                .bind(due.timestamp_micros())
                .bind(envelope.name().as_str())
                .bind(i64::from(envelope.version()))
                .bind(envelope.key())
                .bind(wire::stored_headers(envelope))
                .bind(envelope.payload().as_ref())
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }

    async fn cancel(
        connection: &mut SqliteConnection,
        names: &Names,
        event: EventId,
    ) -> Result<bool, sqlx::Error> {
        let cancel = names.sql("delete from tidings_delayed where event = ?", '_');
        let cancelling = sqlx::query(cancel).bind(event.as_uuid());
        Ok(cancelling.execute(connection).await?.rows_affected() == 1)
    }

    async fn coming(
        connection: &mut SqliteConnection,
        names: &Names,
        key: Option<&str>,
        limit: u32,
    ) -> Result<Vec<DelayedEvent>, sqlx::Error> {
        let coming = "select event, due, substr(name, 1, 300), version, substr(key, 1, 300), created_at from tidings_delayed
            where ?1 is null or key = ?1 order by due, position limit ?2";
        let rows = sqlx::query(names.sql(coming, '_'))
            .bind(key)
            .bind(limit)
            .fetch_all(connection)
            .await?;
        rows.iter().map(read).collect()
    }

    /// While another connection writes, nothing is moved: the next attempt follows soon.
    async fn move_due(
        connection: &mut SqliteConnection,
        names: &Names,
        most: u32,
    ) -> Result<u64, sqlx::Error> {
        let patience = set_patience(connection, PATIENCE).await?;
        let moved = move_now(connection, names, most).await;
        set_patience(connection, patience).await?;
        match moved {
            Err(error) if is_busy(&error) => Ok(0),
            moved => moved,
        }
    }
}

/// Returns how long until the next event is due.
pub(super) async fn due_in(
    connection: &mut SqliteConnection,
    names: &Names,
) -> Result<Option<Duration>, sqlx::Error> {
    let next = "select due / 1000000.0 - unixepoch('subsec') from tidings_delayed
        order by due, position limit 1";
    let next = sqlx::query(names.sql(next, '_'))
        .fetch_optional(connection)
        .await?;
    next.map(|row| Ok(until(row.try_get(0)?))).transpose()
}

/// Both statements have the same limit, and no other connection writes between them.
async fn move_now(
    connection: &mut SqliteConnection,
    names: &Names,
    most: u32,
) -> Result<u64, sqlx::Error> {
    let mut tx = connection.begin_with(Sqlite::BEGIN).await?;
    let now: i64 = sqlx::query("select cast(unixepoch('subsec') * 1000000 as integer)")
        .fetch_one(&mut *tx)
        .await?
        .try_get(0)?;
    park_none(&mut tx, names, now, most).await?;
    let insert = "insert into tidings_outbox (event, name, version, key, headers, payload)
        select event, name, version, key, headers, payload from tidings_delayed
        where due <= ? order by due, position limit ?";
    let moved = sqlx::query(names.sql(insert, '_'))
        .bind(now)
        .bind(most)
        .execute(&mut *tx)
        .await?;
    let delete = "delete from tidings_delayed where position in (
            select position from tidings_delayed where due <= ? order by due, position limit ?)";
    sqlx::query(names.sql(delete, '_'))
        .bind(now)
        .bind(most)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(moved.rows_affected())
}

/// Parks those of them that the log would refuse, under new row ids: a writer can switch off the checks of the table.
async fn park_none(
    connection: &mut SqliteConnection,
    names: &Names,
    now: i64,
    most: u32,
) -> Result<(), sqlx::Error> {
    // A time that is stored as a text sorts after all numbers, and would never be due.
    let none = "select position from (select * from tidings_delayed where due <= ? order by due, position limit ?)
        where typeof(event) <> 'blob' or length(event) <> 16 or typeof(name) <> 'text' or typeof(version) <> 'integer'
           or typeof(key) not in ('text', 'null') or typeof(headers) <> 'text' or typeof(payload) <> 'blob'
        union all
        select position from tidings_delayed where due > 9223372036854775807";
    let places = sqlx::query(names.sql(none, '_'))
        .bind(now)
        .bind(most)
        .fetch_all(&mut *connection)
        .await?;
    for place in places {
        let take = "update sqlite_sequence set seq = seq + 1 where name = 'tidings_outbox'";
        let begin = "insert into sqlite_sequence (name, seq)
            select 'tidings_outbox', 0 where not exists (select 1 from sqlite_sequence where name = 'tidings_outbox')";
        let park = "insert into tidings_parked (id, created_at, event, name, version, key, headers, payload, error)
            select (select seq from sqlite_sequence where name = 'tidings_outbox'),
                   created_at, event, name, version, key, headers, payload,
                   'the row is not an event: a column of the delayed event is not of its type'
            from tidings_delayed where position = ?";
        let delete = "delete from tidings_delayed where position = ?";
        for sql in [begin, take] {
            sqlx::query(names.sql(sql, '_'))
                .execute(&mut *connection)
                .await?;
        }
        for sql in [park, delete] {
            sqlx::query(names.sql(sql, '_'))
                .bind(place.try_get::<i64, _>(0)?)
                .execute(&mut *connection)
                .await?;
        }
    }
    Ok(())
}

/// Sets how many milliseconds the connection waits for a lock, and returns the former value.
async fn set_patience(connection: &mut SqliteConnection, millis: i64) -> Result<i64, sqlx::Error> {
    let before = sqlx::query("pragma busy_timeout")
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    // Safe: a number.
    let set = AssertSqlSafe(format!("pragma busy_timeout = {millis}"));
    sqlx::raw_sql(set).execute(connection).await?;
    Ok(before)
}

/// Whether another connection had the lock.
fn is_busy(error: &sqlx::Error) -> bool {
    const BUSY: i32 = 5;
    let code = error.as_database_error().and_then(|error| error.code());
    // The upper bits of an extended code add detail.
    let code = code.and_then(|code| code.parse::<i32>().ok());
    code.is_some_and(|code| code & 0xff == BUSY)
}

fn read(row: &SqliteRow) -> Result<DelayedEvent, sqlx::Error> {
    Ok(DelayedEvent {
        id: event_or_nil(bytes(row, 0)?),
        due: moment(row, 1)?,
        name: shown(row, 2)?.unwrap_or_default(),
        version: nearest_version(integer(row, 3)?).unsigned_abs(),
        key: shown(row, 4)?,
        at: moment(row, 5)?,
    })
}
