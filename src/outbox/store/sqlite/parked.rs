//! The statements about parked rows. Never decides which rows are restored.

use std::collections::BTreeMap;

use sqlx::{Connection, Row as _, SqlStr, SqliteConnection, sqlite::SqliteRow};
use tidings_contract::EventId;

use super::columns::{bytes, integer, moment, perhaps, read, rows, shown, text};
use crate::outbox::store::{
    Bound, Names, Parked, Rows, Waiting,
    columns::{LONGEST_PAYLOAD, Text, event_or_nil, nearest_version},
    parked::{
        BlockedOn, Extent, ParkedEvent, ParkedSelection, ParkedSize, cut_error, is_returning,
    },
    unsigned,
};

/// A row that is parked already gets the new error. The unpark requests of its followers are cleared; when it waits for
/// a stream, which blocks no follower, they are set.
pub(super) async fn park(
    connection: &mut SqliteConnection,
    names: &Names,
    rows: &[Parked],
) -> Result<(), sqlx::Error> {
    let park = "insert into tidings_parked
            (id, created_at, event, name, version, key, headers, payload, error, blocked_on, unpark_requested_at)
        values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10,
            -- what it follows was discarded: nothing holds it up
            case when ?11 and not exists (
                select 1 from tidings_parked as first
                where first.key = ?6 and first.id < ?1 and coalesce(first.blocked_on, '') not like 'stream %')
            then cast(unixepoch('subsec') * 1000000 as integer) end)
        on conflict (id) do update
        set error = excluded.error, blocked_on = excluded.blocked_on, unpark_requested_at = excluded.unpark_requested_at";
    // Once per key, and not per row: a key may have very many rows.
    let following = "update tidings_parked set unpark_requested_at = null
        where key = ?1 and id > ?2 and unpark_requested_at is not null and coalesce(blocked_on, '') not like 'stream %'";
    let let_go = "update tidings_parked set unpark_requested_at = cast(unixepoch('subsec') * 1000000 as integer)
        where key = ?1 and id > ?2 and blocked_on is null and unpark_requested_at is null
          and id not in (select value from json_each(?3))
          and id < coalesce((
              select min(id) from tidings_parked
              where key = ?1 and blocked_on like 'subject %' and id not in (select value from json_each(?3))),
              9223372036854775807)";
    let ids: Vec<i64> = rows.iter().map(|parked| parked.row.id).collect();
    let ids = serde_json::to_string(&ids).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let mut tx = connection.begin_with("begin immediate").await?;
    let sound = rows.iter().filter(|parked| parked.row.flaw.is_none());
    for (key, first) in firsts(sound) {
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
    // A row that blocks others is written before them.
    let mut in_order: Vec<&Parked> = rows.iter().collect();
    in_order.sort_by_key(|parked| parked.row.id);
    for parked in in_order {
        if parked.row.flaw.is_some() {
            move_flawed(&mut tx, names, parked, following).await?;
            continue;
        }
        let Parked {
            row,
            error,
            blocked_on,
            follows,
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
            .bind(cut_error(error))
            .bind(blocked_on.as_ref().map(ToString::to_string))
            .bind(*follows)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await
}

/// The first row of a key that blocks its followers; without such a row, the first of all.
struct First {
    id: i64,
    holds_up: bool,
}

fn firsts<'a>(rows: impl Iterator<Item = &'a Parked>) -> BTreeMap<&'a str, First> {
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

/// Moves a row with a flaw unchanged: a value that is unreadable or too large is not needed to move it. A row that is
/// parked already, and may no longer be in the log, gets the new error.
async fn move_flawed(
    connection: &mut SqliteConnection,
    names: &Names,
    parked: &Parked,
    following: &'static str,
) -> Result<(), sqlx::Error> {
    let known = "update tidings_parked set error = ?2, blocked_on = null, unpark_requested_at = null where id = ?1";
    let park =
        "insert into tidings_parked (id, created_at, event, name, version, key, headers, payload, error)
        select id, created_at, event, name, version, key, headers, payload, ?2 from tidings_outbox
        where id = ?1 and not exists (select 1 from tidings_parked where id = ?1)";
    sqlx::query(names.sql(following, '_'))
        .bind(&parked.row.key)
        .bind(parked.row.id)
        .execute(&mut *connection)
        .await?;
    for sql in [known, park] {
        sqlx::query(names.sql(sql, '_'))
            .bind(parked.row.id)
            .bind(cut_error(&parked.error))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// A row that waits for a stream blocks no later rows: all rows of that stream wait. Nor does an invalid key: a row
/// with such a key is not an event.
pub(super) async fn keys(
    connection: &mut SqliteConnection,
    names: &Names,
) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let keys = "select key, min(id) from tidings_parked
        where octet_length(key) <= 256 and (blocked_on is null or blocked_on not like 'stream %') group by key";
    let rows = sqlx::query(names.sql(keys, '_'))
        .fetch_all(connection)
        .await?;
    let mut keys = Vec::new();
    for row in &rows {
        if let Text::Bytes(key) = text(row, 0)?
            && let Ok(key) = str::from_utf8(key)
        {
            keys.push((key.to_owned(), row.try_get(1)?));
        }
    }
    Ok(keys)
}

/// Steps from one reason to the next in the index, because there may be millions of rows and few reasons.
pub(super) async fn waiting(
    connection: &mut SqliteConnection,
    names: &Names,
) -> Result<Waiting, sqlx::Error> {
    let waiting = "
        with recursive reason(blocked_on) as (
            select (select min(blocked_on) from tidings_parked where blocked_on is not null)
            union all
            select (select min(blocked_on) from tidings_parked as next where next.blocked_on > reason.blocked_on)
            from reason where reason.blocked_on is not null)
        select blocked_on,
               (select substr(name, 1, 300) from tidings_parked as first
                where first.blocked_on = reason.blocked_on order by id limit 1),
               (select substr(error, 1, 1000) from tidings_parked as first
                where first.blocked_on = reason.blocked_on order by id limit 1)
        from reason where blocked_on is not null
        union all
        select null, null, null
        where exists (select 1 from tidings_parked where unpark_requested_at is not null)";
    let rows = sqlx::query(names.sql(waiting, '_'))
        .fetch_all(connection)
        .await?;
    let mut waiting = Waiting::default();
    for row in rows {
        waiting.add(shown(&row, 0)?, shown(&row, 1)?, shown(&row, 2)?);
    }
    Ok(waiting)
}

/// A row with a key is restored with the first parked row of its key.
pub(super) async fn returning(
    connection: &mut SqliteConnection,
    names: &Names,
    open: &[BlockedOn],
    behind: i64,
    bound: Bound,
) -> Result<Rows, sqlx::Error> {
    let returning = rows!(
        "?4",
        "from tidings_parked as log
        where id > ?2 and case
            when key is null or coalesce(blocked_on, '') like 'stream %'
            then unpark_requested_at is not null or coalesce(blocked_on, '') in (select value from json_each(?1))
            else (select first.unpark_requested_at is not null
                         or coalesce(first.blocked_on, '') in (select value from json_each(?1))
                  from tidings_parked as first
                  where first.key = log.key and coalesce(first.blocked_on, '') not like 'stream %'
                  order by first.id limit 1) end
        order by id limit ?3"
    );
    let open: Vec<String> = open.iter().map(ToString::to_string).collect();
    let open = serde_json::to_string(&open).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let found = sqlx::query(names.sql(returning, '_'))
        .bind(open)
        .bind(behind)
        .bind(i64::try_from(bound.rows).unwrap_or(i64::MAX))
        .bind(i64::try_from(bound.bytes).unwrap_or(i64::MAX))
        .fetch(connection);
    Rows::read(found, |row| read(&row, bound.bytes).map(Some)).await
}

/// Returns the parked rows with these event ids.
pub(super) async fn among(
    connection: &mut SqliteConnection,
    names: &Names,
    events: &[EventId],
    behind: i64,
) -> Result<Rows, sqlx::Error> {
    let among = rows!(
        "67108864",
        "from tidings_parked
        where id > ?2 and lower(hex(event)) in (select value from json_each(?1)) order by id"
    );
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
    Rows::read(found, |row| read(&row, LONGEST_PAYLOAD).map(Some)).await
}

pub(super) async fn sizes(
    connection: &mut SqliteConnection,
    names: &Names,
    selection: &ParkedSelection,
    behind: i64,
    limit: u32,
) -> Result<Vec<ParkedSize>, sqlx::Error> {
    let sizes = "select id, octet_length(payload), octet_length(headers) from tidings_parked
        where id > ?3 and (?1 is null or id = ?1) and (?2 is null or key = ?2)
        order by id limit ?4";
    let (id, key) = selection.parameters();
    let rows = sqlx::query(names.sql(sizes, '_'))
        .bind(id)
        .bind(key)
        .bind(behind)
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await?;
    let size = |bytes: Option<i64>| usize::try_from(bytes.unwrap_or(0)).unwrap_or(0);
    let sizes = rows.iter().map(|row| {
        Ok(ParkedSize {
            id: row.try_get(0)?,
            payload: size(integer(row, 1)?),
            headers: size(integer(row, 2)?),
        })
    });
    sizes.collect()
}

/// Selects a parked row for display, whatever it holds, to the given extent.
macro_rules! parked {
    (head) => {
        parked!("null", "null")
    };
    (shown) => {
        parked!(
            "case when octet_length(headers) <= 400000 then headers end",
            "case when octet_length(payload) <= 4194304 then payload end"
        )
    };
    (whole) => {
        parked!(
            "case when octet_length(headers) <= 400000 then headers end",
            "payload"
        )
    };
    ($headers:literal, $payload:literal) => {
        concat!(
            "id, event, substr(name, 1, 300), version, substr(key, 1, 300), ",
            $headers,
            ", ",
            $payload,
            ", created_at, parked_at, error, blocked_on, unpark_requested_at, octet_length(payload)"
        )
    };
}

pub(super) async fn list(
    connection: &mut SqliteConnection,
    names: &Names,
    ids: &[i64],
    extent: Extent,
) -> Result<Vec<ParkedEvent>, sqlx::Error> {
    macro_rules! list {
        ($extent:ident) => {
            concat!(
                "select ",
                parked!($extent),
                ", ",
                is_returning!("tidings_parked", "parked"),
                " from tidings_parked as parked where id in (select value from json_each(?1)) order by id"
            )
        };
    }
    let list = match extent {
        Extent::Head => list!(head),
        Extent::Shown => list!(shown),
        Extent::Whole => list!(whole),
    };
    read_all(connection, names.sql(list, '_'), ids).await
}

pub(super) async fn unpark(
    connection: &mut SqliteConnection,
    names: &Names,
    selection: &ParkedSelection,
) -> Result<u64, sqlx::Error> {
    let unpark = "update tidings_parked set unpark_requested_at = cast(unixepoch('subsec') * 1000000 as integer)
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
    ids: &[i64],
    extent: Extent,
) -> Result<Vec<ParkedEvent>, sqlx::Error> {
    macro_rules! discard {
        ($extent:ident) => {
            concat!(
                "delete from tidings_parked where id in (select value from json_each(?1)) returning ",
                parked!($extent),
                ", false"
            )
        };
    }
    let discard = match extent {
        Extent::Head => discard!(head),
        Extent::Shown => discard!(shown),
        Extent::Whole => discard!(whole),
    };
    read_all(connection, names.sql(discard, '_'), ids).await
}

async fn read_all(
    connection: &mut SqliteConnection,
    statement: SqlStr,
    ids: &[i64],
) -> Result<Vec<ParkedEvent>, sqlx::Error> {
    let ids = serde_json::to_string(ids).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let rows = sqlx::query(statement)
        .bind(ids)
        .fetch_all(connection)
        .await?;
    rows.iter().map(shown_event).collect()
}
fn shown_event(row: &SqliteRow) -> Result<ParkedEvent, sqlx::Error> {
    Ok(ParkedEvent {
        id: row.try_get(0)?,
        event: event_or_nil(bytes(row, 1)?),
        name: shown(row, 2)?.unwrap_or_default(),
        version: nearest_version(integer(row, 3)?),
        key: shown(row, 4)?,
        headers: shown(row, 5)?.unwrap_or_default(),
        payload: bytes(row, 6)?.unwrap_or_default().to_vec(),
        payload_bytes: unsigned(integer(row, 12)?.unwrap_or(0)),
        at: moment(row, 7)?,
        parked_at: moment(row, 8)?,
        error: shown(row, 9)?.unwrap_or_default(),
        blocked_on: shown(row, 10)?,
        unpark_requested_at: perhaps(row, 11)?,
        is_returning: row.try_get(13)?,
    })
}
