//! Delayed events on Postgres: a table that is read in the order (due, place). Never waits for a row that another
//! transaction has locked.

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row as _, postgres::PgRow};
use tidings_contract::{EventId, wire};
use uuid::Uuid;

use super::{
    columns::{bytes, moment, shown},
    statement_scope::{fetch_all, query},
    version_of,
};
use crate::outbox::store::{
    Names,
    columns::event_or_nil,
    delayed::{Delayed, DelayedEvent, DelayedStatements},
};

impl DelayedStatements for Postgres {
    /// One statement. Row ids are drawn in the order of the arrays.
    async fn delay(
        connection: &mut PgConnection,
        names: &Names,
        events: &[Delayed],
    ) -> Result<(), sqlx::Error> {
        let insert =
            "insert into tidings.delayed (event, due, name, version, key, headers, payload)
            select * from unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::int[], $5::text[],
                                 $6::text[], $7::bytea[])";
        let all = || events.iter().map(|event| &event.envelope);
        let ids: Vec<Uuid> = all().map(|e| e.id().into()).collect();
        let due: Vec<DateTime<Utc>> = events.iter().map(|event| event.due).collect();
        let event_names: Vec<&str> = all().map(|e| e.name().as_str()).collect();
        let versions: Vec<i32> = all().map(version_of).collect();
        let keys: Vec<Option<&str>> = all().map(|e| e.key()).collect();
        let headers: Vec<String> = all().map(wire::stored_headers).collect();
        let payloads: Vec<&[u8]> = all().map(|e| e.payload().as_ref()).collect();
        query(names, insert)
            .bind(ids)
            .bind(due)
            .bind(event_names)
            .bind(versions)
            .bind(keys)
            .bind(headers)
            .bind(payloads)
            .execute(connection)
            .await
            .map(drop)
    }

    async fn cancel(
        connection: &mut PgConnection,
        names: &Names,
        event: EventId,
    ) -> Result<bool, sqlx::Error> {
        let cancel = "delete from tidings.delayed where event = $1";
        let cancelling = query(names, cancel).bind(event.as_uuid());
        Ok(cancelling.execute(connection).await?.rows_affected() == 1)
    }

    async fn coming(
        connection: &mut PgConnection,
        names: &Names,
        key: Option<&str>,
        limit: u32,
    ) -> Result<Vec<DelayedEvent>, sqlx::Error> {
        let coming = "select event, due, tidings.utf8(left(name, 300)), version, tidings.utf8(left(key, 300)), created_at
            from (select * from tidings.delayed where $1 is null or key = $1 order by due, position limit $2) as coming
            order by due, position";
        let rows = fetch_all(
            connection,
            names,
            query(names, coming).bind(key).bind(i64::from(limit)),
        )
        .await?;
        rows.iter().map(read).collect()
    }

    /// Skips rows that another transaction has locked: it cancels them, and the relay must not wait for its end. If it
    /// rolls back, they are published after all, so the later rows of their keys stay. Two relays that move rows at
    /// once cannot reorder a key either, because neither passes over a row that the other one has locked, and ids are
    /// drawn in the order of the last select.
    ///
    /// It is one message, which is one transaction, and is planned each time: a plan that was made while the table was
    /// empty would scan a full table for every chunk.
    async fn move_due(
        connection: &mut PgConnection,
        names: &Names,
        most: u32,
    ) -> Result<u64, sqlx::Error> {
        let move_due = "
            set local enable_seqscan = off;
            with free as materialized (
                select ctid as spot, due, position, key from tidings.delayed
                where due <= now() order by due, position limit $most for update skip locked
            ), held as materialized (
                select distinct on (waiting.key) waiting.key, waiting.due, waiting.position
                from (select due, position from free order by due desc, position desc limit 1) as last
                cross join lateral (
                    select key, due, position from tidings.delayed
                    where (due, position) <= (last.due, last.position) order by due, position offset 0
                ) as waiting
                where waiting.key is not null
                  and not exists (select from free where free.position = waiting.position)
                order by waiting.key, waiting.due, waiting.position
            ), gone as (
                delete from tidings.delayed as delayed
                using free left join held on held.key = free.key
                where delayed.ctid = free.spot
                  and (held.key is null or (free.due, free.position) < (held.due, held.position))
                returning delayed.*
            )
            insert into tidings.outbox (event, name, version, key, headers, payload)
            select event, name, version, key, headers, payload from gone order by due, position";
        let move_due = move_due.replace("$most", &most.to_string());
        // Safe: a constant, a number and a checked identifier.
        let moved = sqlx::raw_sql(AssertSqlSafe(names.text(&move_due, '.')));
        Ok(moved.execute(connection).await?.rows_affected())
    }
}

fn read(row: &PgRow) -> Result<DelayedEvent, sqlx::Error> {
    Ok(DelayedEvent {
        id: event_or_nil(bytes(row, 0)?),
        due: moment(row, 1)?,
        name: shown(row, 2)?.unwrap_or_default(),
        version: row.try_get::<i32, _>(3)?.unsigned_abs(),
        key: shown(row, 4)?,
        at: moment(row, 5)?,
    })
}
