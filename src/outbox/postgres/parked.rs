//! The statements about parked rows. Never decides which go back.

use sqlx::{PgConnection, Row as _, postgres::PgRow};
use tidings_contract::EventId;
use uuid::Uuid;

use super::turn::{Turn, query};
use crate::outbox::{
    parked::{ParkedEvent, ParkedSelection, WaitsFor},
    store::{Bound, Names, Parked, Rows, Waiting},
};

/// A row that is parked already gets the new reason. What follows it is asked for no more; or is from now on,
/// when it waits for a stream, which holds nobody up.
pub(super) async fn park(
    connection: &mut PgConnection,
    names: &Names,
    rows: &[Parked],
) -> Result<(), sqlx::Error> {
    let park = "with row as (
            select key, holds_up, min(id) as id
            from unnest($1::bigint[], $6::text[], $11::bool[]) as row (id, key, holds_up) group by key, holds_up
        ), waiting as materialized (
            select key, min(id) as id from tidings.parked
            where key in (select key from row where not holds_up) and waits_for like 'subject %'
              and id <> all($1::bigint[])
            group by key
        ), let_go as (
            update tidings.parked as log set asked_at = clock_timestamp() from row
            where log.key = row.key and not row.holds_up and log.id > row.id
              and log.waits_for is null and log.asked_at is null and log.id <> all($1::bigint[])
              and not exists (select from row as held where held.key = log.key and held.holds_up)
              and not exists (select from waiting as other where other.key = log.key and other.id < log.id)
        ), following as (
            update tidings.parked as log set asked_at = null
            from row as held
            where held.holds_up and log.key = held.key and log.id > held.id and log.asked_at is not null
              and log.id <> all($1::bigint[])
              and (log.waits_for is null or log.waits_for not like 'stream %')
        )
        insert into tidings.parked
            (id, at, event, name, version, key, headers, payload, error, waits_for)
        select * from unnest($1::bigint[], $2::timestamptz[], $3::uuid[], $4::text[], $5::int[], $6::text[],
                             $7::text[], $8::bytea[], $9::text[], $10::text[])
        on conflict (id) do update
        set error = excluded.error, waits_for = excluded.waits_for, asked_at = null";
    let ids: Vec<i64> = rows.iter().map(|parked| parked.row.id).collect();
    let ats: Vec<_> = rows.iter().map(|parked| parked.row.at).collect();
    let events: Vec<Uuid> = rows.iter().map(|parked| parked.row.event.into()).collect();
    let event_names: Vec<&str> = rows.iter().map(|parked| &*parked.row.name).collect();
    let versions: Vec<i32> = rows.iter().map(|parked| parked.row.version).collect();
    let keys: Vec<Option<&str>> = rows
        .iter()
        .map(|parked| parked.row.key.as_deref())
        .collect();
    let headers: Vec<&str> = rows.iter().map(|parked| &*parked.row.headers).collect();
    let payloads: Vec<&[u8]> = rows.iter().map(|parked| &*parked.row.payload).collect();
    let errors: Vec<&str> = rows.iter().map(|parked| &*parked.error).collect();
    let waits: Vec<Option<String>> = rows
        .iter()
        .map(|parked| parked.waits_for.as_ref().map(ToString::to_string))
        .collect();
    let holding: Vec<bool> = rows.iter().map(Parked::holds_up).collect();
    let mut turn = Turn::begin(connection, names).await?;
    query(names, park)
        .bind(ids)
        .bind(ats)
        .bind(events)
        .bind(event_names)
        .bind(versions)
        .bind(keys)
        .bind(headers)
        .bind(payloads)
        .bind(errors)
        .bind(waits)
        .bind(holding)
        .execute(&mut *turn)
        .await?;
    turn.end().await
}

/// What waits for a stream holds up nobody: all of that stream waits.
pub(super) async fn keys(
    connection: &mut PgConnection,
    names: &Names,
) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let keys = "select key, min(id) from tidings.parked
        where key is not null and (waits_for is null or waits_for not like 'stream %') group by key";
    let mut turn = Turn::begin(connection, names).await?;
    let rows = query(names, keys).fetch_all(&mut *turn).await?;
    turn.end().await?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect()
}

/// Steps from one reason to the next in the index; there may be millions of rows and few reasons.
pub(super) async fn waiting(
    connection: &mut PgConnection,
    names: &Names,
) -> Result<Waiting, sqlx::Error> {
    let waiting = "
        with recursive reason as (
            select min(waits_for) as waits_for from tidings.parked where waits_for is not null
            union all
            select (select min(waits_for) from tidings.parked as next where next.waits_for > reason.waits_for)
            from reason where reason.waits_for is not null)
        select waits_for,
               (select name from tidings.parked as first where first.waits_for = reason.waits_for
                order by id limit 1),
               (select error from tidings.parked as first where first.waits_for = reason.waits_for
                order by id limit 1)
        from reason where waits_for is not null
        union all
        select null, null, null from (select) as one
        where exists (select from tidings.parked where asked_at is not null)";
    let mut turn = Turn::begin(connection, names).await?;
    let rows = query(names, waiting).fetch_all(&mut *turn).await?;
    turn.end().await?;
    let mut waiting = Waiting::default();
    for row in rows {
        waiting.add(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)?;
    }
    Ok(waiting)
}

/// A row with a key goes back when the first one that is parked under its key does.
pub(super) async fn returning(
    connection: &mut PgConnection,
    names: &Names,
    open: &[WaitsFor],
    behind: i64,
    bound: Bound,
) -> Result<Rows, sqlx::Error> {
    let returning = "select id, at, event, name, version, key, headers, payload from tidings.parked as log
        where id > $2 and case
            when key is null or waits_for like 'stream %'
            then asked_at is not null or coalesce(waits_for = any($1), false)
            else (select first.asked_at is not null or coalesce(first.waits_for = any($1), false)
                  from tidings.parked as first
                  where first.key = log.key and (first.waits_for is null or first.waits_for not like 'stream %')
                  order by first.id limit 1) end
        order by id limit $3";
    let open: Vec<String> = open.iter().map(ToString::to_string).collect();
    let mut turn = Turn::begin(connection, names).await?;
    let found = query(names, returning)
        .bind(open)
        .bind(behind)
        .bind(i64::try_from(bound.rows).unwrap_or(i64::MAX))
        .fetch(&mut *turn);
    let rows = Rows::read(found, |row| super::fetch::read(&row).map(Some)).await?;
    turn.end().await?;
    Ok(rows)
}

/// The parked rows that have one of these ids.
pub(super) async fn among(
    connection: &mut PgConnection,
    names: &Names,
    events: &[EventId],
    behind: i64,
) -> Result<Rows, sqlx::Error> {
    let among = "select id, at, event, name, version, key, headers, payload from tidings.parked
        where id > $2 and event = any($1) order by id";
    let events: Vec<Uuid> = events.iter().map(|event| (*event).into()).collect();
    let mut turn = Turn::begin(connection, names).await?;
    let found = query(names, among)
        .bind(events)
        .bind(behind)
        .fetch(&mut *turn);
    let rows = Rows::read(found, |row| super::fetch::read(&row).map(Some)).await?;
    turn.end().await?;
    Ok(rows)
}

pub(super) async fn list(
    connection: &mut PgConnection,
    names: &Names,
    selection: &ParkedSelection,
    behind: i64,
    limit: u32,
) -> Result<Vec<ParkedEvent>, sqlx::Error> {
    let list = "select id, event, name, version, key, headers, payload, at, parked_at, error, waits_for, asked_at
        from tidings.parked
        where id > $3 and ($1::bigint is null or id = $1) and ($2::text is null or key = $2)
        order by id limit $4";
    let (id, key) = selection.parameters();
    let mut turn = Turn::begin(connection, names).await?;
    let rows = query(names, list)
        .bind(id)
        .bind(key)
        .bind(behind)
        .bind(i64::from(limit))
        .fetch_all(&mut *turn)
        .await?;
    turn.end().await?;
    rows.iter().map(read).collect()
}

pub(super) async fn unpark(
    connection: &mut PgConnection,
    names: &Names,
    selection: &ParkedSelection,
) -> Result<u64, sqlx::Error> {
    let unpark = "update tidings.parked set asked_at = clock_timestamp()
        where ($1::bigint is null or id = $1
               or key = (select key from tidings.parked as meant where meant.id = $1))
          and ($2::text is null or key = $2)";
    let (id, key) = selection.parameters();
    let mut turn = Turn::begin(connection, names).await?;
    let asked = query(names, unpark)
        .bind(id)
        .bind(key)
        .execute(&mut *turn)
        .await?;
    turn.end().await?;
    Ok(asked.rows_affected())
}

pub(super) async fn discard(
    connection: &mut PgConnection,
    names: &Names,
    selection: &ParkedSelection,
    limit: u32,
) -> Result<Vec<ParkedEvent>, sqlx::Error> {
    let discard = "delete from tidings.parked where id in (
            select id from tidings.parked
            where ($1::bigint is null or id = $1) and ($2::text is null or key = $2)
            order by id limit $3)
        returning id, event, name, version, key, headers, payload, at, parked_at, error, waits_for, asked_at";
    let (id, key) = selection.parameters();
    let mut turn = Turn::begin(connection, names).await?;
    let rows = query(names, discard)
        .bind(id)
        .bind(key)
        .bind(i64::from(limit))
        .fetch_all(&mut *turn)
        .await?;
    turn.end().await?;
    rows.iter().map(read).collect()
}

fn read(row: &PgRow) -> Result<ParkedEvent, sqlx::Error> {
    Ok(ParkedEvent {
        id: row.try_get(0)?,
        event: EventId::from(row.try_get::<Uuid, _>(1)?),
        name: row.try_get(2)?,
        version: row.try_get(3)?,
        key: row.try_get(4)?,
        headers: row.try_get(5)?,
        payload: row.try_get(6)?,
        at: row.try_get(7)?,
        parked_at: row.try_get(8)?,
        error: row.try_get(9)?,
        waits_for: row.try_get(10)?,
        asked_at: row.try_get(11)?,
    })
}
