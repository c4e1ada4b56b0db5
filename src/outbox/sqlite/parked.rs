//! The statements about parked rows. Never decides which go back.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::{Connection, Row as _, SqliteConnection, sqlite::SqliteRow};
use tidings_contract::EventId;
use uuid::Uuid;

use crate::outbox::{
    parked::{ParkedEvent, ParkedSelection, WaitsFor},
    store::{Bound, Names, Parked, Rows, Waiting},
};

/// A row that is parked already gets the new reason. What follows it is asked for no more; or is from now on,
/// when it waits for a stream, which holds nobody up.
pub(super) async fn park(
    connection: &mut SqliteConnection,
    names: &Names,
    rows: &[Parked],
) -> Result<(), sqlx::Error> {
    let park = "insert into tidings_parked
            (id, at, event, name, version, key, headers, payload, error, waits_for)
        values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        on conflict (id) do update
        set error = excluded.error, waits_for = excluded.waits_for, asked_at = null";
    // Once for each key, and not for each row: a key may have very many.
    let following = "update tidings_parked set asked_at = null
        where key = ?1 and id > ?2 and asked_at is not null and coalesce(waits_for, '') not like 'stream %'";
    let let_go = "update tidings_parked set asked_at = cast(unixepoch('subsec') * 1000000 as integer)
        where key = ?1 and id > ?2 and waits_for is null and asked_at is null
          and id not in (select value from json_each(?3))
          and id < coalesce((
              select min(id) from tidings_parked
              where key = ?1 and waits_for like 'subject %' and id not in (select value from json_each(?3))),
              9223372036854775807)";
    let ids: Vec<i64> = rows.iter().map(|parked| parked.row.id).collect();
    let ids = serde_json::to_string(&ids).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let mut tx = connection.begin_with("begin immediate").await?;
    for (key, first) in firsts(rows) {
        let query = match first.holds_up {
            true => sqlx::query(names.sql(following, '_'))
                .bind(key)
                .bind(first.id),
            false => {
                let query = sqlx::query(names.sql(let_go, '_')).bind(key);
                query.bind(first.id).bind(&ids)
            }
        };
        query.execute(&mut *tx).await?;
    }
    for parked in rows {
        let Parked {
            row,
            error,
            waits_for,
            follows: _,
        } = parked;
        sqlx::query(names.sql(park, '_'))
            .bind(row.id)
            .bind(row.at.timestamp_micros())
            .bind(row.event.as_uuid())
            .bind(&row.name)
            .bind(row.version)
            .bind(&row.key)
            .bind(&row.headers)
            .bind(row.payload.as_ref())
            .bind(error)
            .bind(waits_for.as_ref().map(ToString::to_string))
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await
}

/// The first one of the rows of a key that holds up what follows; without such a one the first one of all.
struct First {
    id: i64,
    holds_up: bool,
}

fn firsts(rows: &[Parked]) -> BTreeMap<&str, First> {
    let mut firsts: BTreeMap<&str, First> = BTreeMap::new();
    for parked in rows {
        let Some(key) = parked.row.key.as_deref() else {
            continue;
        };
        let (id, holds_up) = (parked.row.id, parked.holds_up());
        let first = firsts.entry(key).or_insert(First { id, holds_up });
        if holds_up && !first.holds_up {
            *first = First { id, holds_up };
        }
        if holds_up == first.holds_up {
            first.id = first.id.min(id);
        }
    }
    firsts
}

/// What waits for a stream holds up nobody: all of that stream waits.
pub(super) async fn keys(
    connection: &mut SqliteConnection,
    names: &Names,
) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let keys = "select key, min(id) from tidings_parked
        where key is not null and (waits_for is null or waits_for not like 'stream %') group by key";
    let rows = sqlx::query(names.sql(keys, '_'))
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect()
}

/// Steps from one reason to the next in the index; there may be millions of rows and few reasons.
pub(super) async fn waiting(
    connection: &mut SqliteConnection,
    names: &Names,
) -> Result<Waiting, sqlx::Error> {
    let waiting = "
        with recursive reason(waits_for) as (
            select (select min(waits_for) from tidings_parked where waits_for is not null)
            union all
            select (select min(waits_for) from tidings_parked as next where next.waits_for > reason.waits_for)
            from reason where reason.waits_for is not null)
        select waits_for,
               (select name from tidings_parked as first where first.waits_for = reason.waits_for
                order by id limit 1),
               (select error from tidings_parked as first where first.waits_for = reason.waits_for
                order by id limit 1)
        from reason where waits_for is not null
        union all
        select null, null, null
        where exists (select 1 from tidings_parked where asked_at is not null)";
    let rows = sqlx::query(names.sql(waiting, '_'))
        .fetch_all(connection)
        .await?;
    let mut waiting = Waiting::default();
    for row in rows {
        waiting.add(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)?;
    }
    Ok(waiting)
}

/// A row with a key goes back when the first one that is parked under its key does.
pub(super) async fn returning(
    connection: &mut SqliteConnection,
    names: &Names,
    open: &[WaitsFor],
    behind: i64,
    bound: Bound,
) -> Result<Rows, sqlx::Error> {
    let returning = "select id, at, event, name, version, key, headers, payload from tidings_parked as log
        where id > ?2 and case
            when key is null or coalesce(waits_for, '') like 'stream %'
            then asked_at is not null or coalesce(waits_for, '') in (select value from json_each(?1))
            else (select first.asked_at is not null
                         or coalesce(first.waits_for, '') in (select value from json_each(?1))
                  from tidings_parked as first
                  where first.key = log.key and coalesce(first.waits_for, '') not like 'stream %'
                  order by first.id limit 1) end
        order by id limit ?3";
    let open: Vec<String> = open.iter().map(ToString::to_string).collect();
    let open = serde_json::to_string(&open).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let found = sqlx::query(names.sql(returning, '_'))
        .bind(open)
        .bind(behind)
        .bind(i64::try_from(bound.rows).unwrap_or(i64::MAX))
        .fetch(connection);
    Rows::read(found, |row| super::read(&row).map(Some)).await
}

/// The parked rows that have one of these ids.
pub(super) async fn among(
    connection: &mut SqliteConnection,
    names: &Names,
    events: &[EventId],
    behind: i64,
) -> Result<Rows, sqlx::Error> {
    let among = "select id, at, event, name, version, key, headers, payload from tidings_parked
        where id > ?2 and lower(hex(event)) in (select value from json_each(?1)) order by id";
    let events: Vec<String> = events
        .iter()
        .map(|event| event.as_uuid().simple().to_string())
        .collect();
    let events =
        serde_json::to_string(&events).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let found = sqlx::query(names.sql(among, '_'))
        .bind(events)
        .bind(behind)
        .fetch(connection);
    Rows::read(found, |row| super::read(&row).map(Some)).await
}

pub(super) async fn list(
    connection: &mut SqliteConnection,
    names: &Names,
    selection: &ParkedSelection,
    behind: i64,
    limit: u32,
) -> Result<Vec<ParkedEvent>, sqlx::Error> {
    let list = "select id, event, name, version, key, headers, payload, at, parked_at, error, waits_for, asked_at
        from tidings_parked
        where id > ?3 and (?1 is null or id = ?1) and (?2 is null or key = ?2)
        order by id limit ?4";
    let (id, key) = selection.parameters();
    let rows = sqlx::query(names.sql(list, '_'))
        .bind(id)
        .bind(key)
        .bind(behind)
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await?;
    rows.iter().map(read).collect()
}

pub(super) async fn unpark(
    connection: &mut SqliteConnection,
    names: &Names,
    selection: &ParkedSelection,
) -> Result<u64, sqlx::Error> {
    let unpark = "update tidings_parked set asked_at = cast(unixepoch('subsec') * 1000000 as integer)
        where (?1 is null or id = ?1 or key = (select key from tidings_parked as meant where meant.id = ?1))
          and (?2 is null or key = ?2)";
    let (id, key) = selection.parameters();
    let asked = sqlx::query(names.sql(unpark, '_'))
        .bind(id)
        .bind(key)
        .execute(connection)
        .await?;
    Ok(asked.rows_affected())
}

pub(super) async fn discard(
    connection: &mut SqliteConnection,
    names: &Names,
    selection: &ParkedSelection,
    limit: u32,
) -> Result<Vec<ParkedEvent>, sqlx::Error> {
    let discard = "delete from tidings_parked where id in (
            select id from tidings_parked
            where (?1 is null or id = ?1) and (?2 is null or key = ?2)
            order by id limit ?3)
        returning id, event, name, version, key, headers, payload, at, parked_at, error, waits_for, asked_at";
    let (id, key) = selection.parameters();
    let rows = sqlx::query(names.sql(discard, '_'))
        .bind(id)
        .bind(key)
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await?;
    rows.iter().map(read).collect()
}

fn read(row: &SqliteRow) -> Result<ParkedEvent, sqlx::Error> {
    let asked_at: Option<i64> = row.try_get(11)?;
    Ok(ParkedEvent {
        id: row.try_get(0)?,
        event: EventId::from(row.try_get::<Uuid, _>(1)?),
        name: row.try_get(2)?,
        version: row.try_get(3)?,
        key: row.try_get(4)?,
        headers: row.try_get(5)?,
        payload: row.try_get(6)?,
        at: moment(row.try_get(7)?),
        parked_at: moment(row.try_get(8)?),
        error: row.try_get(9)?,
        waits_for: row.try_get(10)?,
        asked_at: asked_at.map(moment),
    })
}

fn moment(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or(DateTime::UNIX_EPOCH)
}
