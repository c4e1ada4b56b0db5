//! The statements about parked rows. Never decides which rows are restored.

use sqlx::{PgConnection, Row as _, postgres::PgRow};
use tidings_contract::EventId;
use uuid::Uuid;

use super::{
    columns::{Statement, bytes, is_of_a_row, moment, perhaps, read, rows, shown},
    statement_scope::{StatementScope, execute, fetch_all, query},
};
use crate::outbox::store::{
    Bound, Names, Parked, Rows, Waiting,
    columns::{LONGEST_PAYLOAD, event_or_nil},
    parked::{
        BlockedOn, Extent, ParkedEvent, ParkedSelection, ParkedSize, cut_error, is_returning,
    },
    unsigned,
};

/// A row that is parked already gets the new error. The unpark requests of its followers are cleared; when it waits for
/// a stream, which blocks no follower, they are set. When another event has the same row id, because it was written by
/// hand, it gets a new row id.
pub(super) async fn park(
    connection: &mut PgConnection,
    names: &Names,
    rows: &[Parked],
) -> Result<(), sqlx::Error> {
    let (flawed, rows): (Vec<&Parked>, Vec<&Parked>) =
        rows.iter().partition(|parked| parked.row.flaw.is_some());
    if !flawed.is_empty() {
        move_flawed(connection, names, &flawed).await?;
    }
    if rows.is_empty() {
        return Ok(());
    }
    let mut errors: Vec<String> = rows.iter().map(|parked| cut_error(&parked.error)).collect();
    match park_rows(connection, names, &rows, &errors).await {
        // The encoding of the database lacks a character of the server's message.
        Err(error) if is_of_a_row(&error) => {
            for error in &mut errors {
                *error = error.escape_default().to_string();
            }
            park_rows(connection, names, &rows, &errors).await
        }
        parked => parked,
    }
}

async fn park_rows(
    connection: &mut PgConnection,
    names: &Names,
    rows: &[&Parked],
    errors: &[String],
) -> Result<(), sqlx::Error> {
    let park = "with row as (
            select key, holds_up, min(id) as id
            from unnest($1::bigint[], $6::text[], $11::bool[]) as row (id, key, holds_up) group by key, holds_up
        ), waiting as materialized (
            select key, min(id) as id from tidings.parked
            where key in (select key from row where not holds_up) and octet_length(key) <= 256 and blocked_on like 'subject %'
              and id <> all($1::bigint[])
            group by key
        ), let_go as (
            update tidings.parked as log set unpark_requested_at = clock_timestamp() from row
            where log.key = row.key and octet_length(log.key) <= 256 and not row.holds_up and log.id > row.id
              and log.blocked_on is null and log.unpark_requested_at is null and log.id <> all($1::bigint[])
              and not exists (select from row as held where held.key = log.key and held.holds_up)
              and not exists (select from waiting as other where other.key = log.key and other.id < log.id)
        ), following as (
            update tidings.parked as log set unpark_requested_at = null
            from row as held
            where held.holds_up and log.key = held.key and octet_length(log.key) <= 256
              and log.id > held.id and log.unpark_requested_at is not null
              and log.id <> all($1::bigint[])
              and (log.blocked_on is null or log.blocked_on not like 'stream %')
        )
        insert into tidings.parked
            (id, created_at, event, name, version, key, headers, payload, error, blocked_on, unpark_requested_at)
        select case when twin > 1 or exists (select from tidings.parked as other
                                             where other.id = row.id and other.event <> row.event)
                    then nextval('tidings.outbox_id') else id end,
               created_at, event, name, version, key, headers, payload, error, blocked_on,
               -- what it follows was discarded: nothing holds it up
               case when follows
                     and not exists (select from tidings.parked as first
                                     where first.key = row.key and octet_length(first.key) <= 256 and first.id < row.id
                                       and (first.blocked_on is null or first.blocked_on not like 'stream %'))
                     and not exists (select from row as held
                                     where held.key = row.key and held.holds_up and held.id < row.id)
                    then clock_timestamp() end
        from (
            select *, row_number() over (partition by id) as twin
            from unnest($1::bigint[], $2::timestamptz[], $3::uuid[], $4::text[], $5::int[], $6::text[],
                        $7::text[], $8::bytea[], $9::text[], $10::text[], $12::bool[])
                as given (id, created_at, event, name, version, key, headers, payload, error, blocked_on, follows)
        ) as row
        on conflict (id) do update
        set error = excluded.error, blocked_on = excluded.blocked_on, unpark_requested_at = excluded.unpark_requested_at";
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
    let waits: Vec<Option<String>> = rows
        .iter()
        .map(|parked| parked.blocked_on.as_ref().map(ToString::to_string))
        .collect();
    let holding: Vec<bool> = rows.iter().map(|parked| parked.holds_up()).collect();
    let following: Vec<bool> = rows.iter().map(|parked| parked.follows).collect();
    execute(
        connection,
        names,
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
            .bind(following),
    )
    .await
    .map(drop)
}

/// Moves rows with a flaw unchanged: a value that is unreadable or too large is not needed to move it. Rows that are
/// parked already, and may no longer be in the log, get the new error.
async fn move_flawed(
    connection: &mut PgConnection,
    names: &Names,
    flawed: &[&Parked],
) -> Result<(), sqlx::Error> {
    let park = "with flawed as (
            select * from unnest($1::bigint[], $2::text[], $3::text[], $4::uuid[]) as flawed (id, error, key, event)
        ), following as (
            update tidings.parked as log set unpark_requested_at = null
            from flawed as held
            where log.key = held.key and octet_length(log.key) <= 256
              and log.id > held.id and log.unpark_requested_at is not null and log.id <> all($1::bigint[])
              and (log.blocked_on is null or log.blocked_on not like 'stream %')
        ), known as (
            update tidings.parked as parked set error = flawed.error, blocked_on = null, unpark_requested_at = null
            from flawed where parked.id = flawed.id and parked.event = flawed.event
        )
        insert into tidings.parked (id, created_at, event, name, version, key, headers, payload, error)
        select case when row_number() over (partition by log.id) > 1
                         or exists (select from tidings.parked as other where other.id = log.id)
                    then nextval('tidings.outbox_id') else log.id end,
               log.created_at, log.event, log.name, log.version, log.key, log.headers, log.payload, flawed.error
        from tidings.outbox as log
        join (select distinct on (id, event) * from flawed) as flawed on flawed.id = log.id and flawed.event = log.event
        where log.id = any($1::bigint[])
          and not exists (select from tidings.parked as parked where parked.id = log.id and parked.event = log.event)
        on conflict (id) do nothing";
    let ids: Vec<i64> = flawed.iter().map(|parked| parked.row.id).collect();
    let errors: Vec<&str> = flawed.iter().map(|parked| &*parked.error).collect();
    let keys: Vec<Option<&str>> = flawed
        .iter()
        .map(|parked| parked.row.key.as_deref())
        .collect();
    let events: Vec<Uuid> = flawed
        .iter()
        .map(|parked| parked.row.event.into())
        .collect();
    execute(
        connection,
        names,
        query(names, park)
            .bind(ids)
            .bind(errors)
            .bind(keys)
            .bind(events),
    )
    .await
    .map(drop)
}

/// A row that waits for a stream blocks no later rows: all rows of that stream wait. Nor does an invalid key: a row
/// with such a key is not an event.
pub(super) async fn keys(
    connection: &mut PgConnection,
    names: &Names,
) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let plain = "select key, min(id) from tidings.parked
        where octet_length(key) <= 256 and (blocked_on is null or blocked_on not like 'stream %') group by key";
    let checked = "select tidings.utf8(key), min(id) from tidings.parked
        where octet_length(key) <= 256 and (blocked_on is null or blocked_on not like 'stream %')
          and tidings.utf8(key) is not null group by key";
    match keys_of(connection, names, plain).await {
        Err(error) if is_of_a_row(&error) => keys_of(connection, names, checked).await,
        keys => keys,
    }
}

async fn keys_of(
    connection: &mut PgConnection,
    names: &Names,
    keys: &'static str,
) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let rows = fetch_all(connection, names, query(names, keys)).await?;
    rows.iter()
        .map(|row| Ok((shown(row, 0)?.unwrap_or_default(), row.try_get(1)?)))
        .collect()
}

/// Steps from one reason to the next in the index, because there may be millions of rows and few reasons.
pub(super) async fn waiting(
    connection: &mut PgConnection,
    names: &Names,
) -> Result<Waiting, sqlx::Error> {
    let waiting = "
        with recursive reason as (
            select min(blocked_on) as blocked_on from tidings.parked where blocked_on is not null
            union all
            select (select min(blocked_on) from tidings.parked as next where next.blocked_on > reason.blocked_on)
            from reason where reason.blocked_on is not null)
        select tidings.utf8(blocked_on),
               (select tidings.utf8(left(name, 300)) from tidings.parked as first
                where first.blocked_on = reason.blocked_on order by id limit 1),
               (select tidings.utf8(left(error, 1000)) from tidings.parked as first
                where first.blocked_on = reason.blocked_on order by id limit 1)
        from reason where blocked_on is not null
        union all
        select null, null, null from (select) as one
        where exists (select from tidings.parked where unpark_requested_at is not null)";
    let rows = fetch_all(connection, names, query(names, waiting)).await?;
    let mut waiting = Waiting::default();
    for row in rows {
        waiting.add(shown(&row, 0)?, shown(&row, 1)?, shown(&row, 2)?);
    }
    Ok(waiting)
}

/// A row with a key is restored with the first parked row of its key.
pub(super) async fn returning(
    connection: &mut PgConnection,
    names: &Names,
    open: &[BlockedOn],
    behind: i64,
    bound: Bound,
) -> Result<Rows, sqlx::Error> {
    const RETURNING: Statement = rows!(
        "$4",
        "select id, created_at, event, name, version, key, headers, payload from tidings.parked as log
        where id > $2 and case
            when key is null or blocked_on like 'stream %' or octet_length(key) > 256
            then unpark_requested_at is not null or coalesce(blocked_on = any($1), false)
            else (select first.unpark_requested_at is not null or coalesce(first.blocked_on = any($1), false)
                  from tidings.parked as first
                  where first.key = log.key and octet_length(first.key) <= 256
                    and (first.blocked_on is null or first.blocked_on not like 'stream %')
                  order by first.id limit 1) end
        order by id limit $3"
    );
    let open: Vec<String> = open.iter().map(ToString::to_string).collect();
    let [plain, checked] = RETURNING.variants();
    match returning_of(connection, names, plain, (&open, behind, bound)).await {
        Err(error) if is_of_a_row(&error) => {
            returning_of(connection, names, checked, (&open, behind, bound)).await
        }
        rows => rows,
    }
}

async fn returning_of(
    connection: &mut PgConnection,
    names: &Names,
    returning: &'static str,
    (open, behind, bound): (&[String], i64, Bound),
) -> Result<Rows, sqlx::Error> {
    let mut scope = StatementScope::begin(connection, names).await?;
    let found = query(names, returning)
        .bind(open)
        .bind(behind)
        .bind(i64::try_from(bound.rows).unwrap_or(i64::MAX))
        .bind(i64::try_from(bound.bytes).unwrap_or(i64::MAX))
        .fetch(&mut *scope);
    let rows = Rows::read(found, |row| read(&row, bound.bytes).map(Some)).await?;
    scope.end().await?;
    Ok(rows)
}

/// Returns the parked rows with these event ids.
pub(super) async fn among(
    connection: &mut PgConnection,
    names: &Names,
    events: &[EventId],
    behind: i64,
) -> Result<Rows, sqlx::Error> {
    const AMONG: Statement = rows!(
        "67108864",
        "select id, created_at, event, name, version, key, headers, payload from tidings.parked
        where id > $2 and event = any($1) order by id"
    );
    let events: Vec<Uuid> = events.iter().map(|event| (*event).into()).collect();
    let [plain, checked] = AMONG.variants();
    match among_of(connection, names, plain, (&events, behind)).await {
        Err(error) if is_of_a_row(&error) => {
            among_of(connection, names, checked, (&events, behind)).await
        }
        rows => rows,
    }
}

async fn among_of(
    connection: &mut PgConnection,
    names: &Names,
    among: &'static str,
    (events, behind): (&[Uuid], i64),
) -> Result<Rows, sqlx::Error> {
    let mut scope = StatementScope::begin(connection, names).await?;
    let found = query(names, among)
        .bind(events)
        .bind(behind)
        .fetch(&mut *scope);
    let rows = Rows::read(found, |row| read(&row, LONGEST_PAYLOAD).map(Some)).await?;
    scope.end().await?;
    Ok(rows)
}

pub(super) async fn sizes(
    connection: &mut PgConnection,
    names: &Names,
    selection: &ParkedSelection,
    behind: i64,
    limit: u32,
) -> Result<Vec<ParkedSize>, sqlx::Error> {
    let sizes = "select id, octet_length(payload), octet_length(headers) from tidings.parked
        where id > $3 and ($1::bigint is null or id = $1)
          and ($2::text is null or key = $2 and octet_length(key) <= 256)
        order by id limit $4";
    let (id, key) = selection.parameters();
    let sizes = query(names, sizes)
        .bind(id)
        .bind(key)
        .bind(behind)
        .bind(i64::from(limit));
    let rows = fetch_all(connection, names, sizes).await?;
    let size = |bytes: i32| usize::try_from(bytes).unwrap_or(0);
    let sizes = rows.iter().map(|row| {
        Ok(ParkedSize {
            id: row.try_get(0)?,
            payload: size(row.try_get(1)?),
            headers: size(row.try_get(2)?),
        })
    });
    sizes.collect()
}

/// Selects a parked row for display, whatever it holds, to the given extent.
macro_rules! parked {
    (head, $from:literal) => {
        parked!("null::bytea", "null::bytea", $from)
    };
    (shown, $from:literal) => {
        parked!(
            "tidings.utf8(case when octet_length(headers) <= 400000 then headers end)",
            "case when octet_length(payload) <= 4194304 then payload end",
            $from
        )
    };
    (whole, $from:literal) => {
        parked!(
            "tidings.utf8(case when octet_length(headers) <= 400000 then headers end)",
            "payload",
            $from
        )
    };
    ($headers:literal, $payload:literal, $from:literal) => {
        concat!(
            "select id, event, tidings.utf8(left(name, 300)), version, tidings.utf8(left(key, 300)), ",
            $headers,
            ", ",
            $payload,
            ", created_at, parked_at, tidings.utf8(error), tidings.utf8(blocked_on), unpark_requested_at,
                octet_length(payload), ",
            is_returning!("tidings.parked", "parked"),
            "
            from (",
            $from,
            ") as parked order by id"
        )
    };
}

pub(super) async fn list(
    connection: &mut PgConnection,
    names: &Names,
    ids: &[i64],
    extent: Extent,
) -> Result<Vec<ParkedEvent>, sqlx::Error> {
    let list = match extent {
        Extent::Head => parked!(head, "select * from tidings.parked where id = any($1)"),
        Extent::Shown => parked!(shown, "select * from tidings.parked where id = any($1)"),
        Extent::Whole => parked!(whole, "select * from tidings.parked where id = any($1)"),
    };
    let rows = fetch_all(connection, names, query(names, list).bind(ids)).await?;
    rows.iter().map(shown_event).collect()
}

pub(super) async fn unpark(
    connection: &mut PgConnection,
    names: &Names,
    selection: &ParkedSelection,
) -> Result<u64, sqlx::Error> {
    let unpark = "update tidings.parked set unpark_requested_at = clock_timestamp()
        where ($1::bigint is null or id = $1
               or key = (select key from tidings.parked as meant where meant.id = $1) and octet_length(key) <= 256)
          and ($2::text is null or key = $2 and octet_length(key) <= 256)";
    let (id, key) = selection.parameters();
    let asked = execute(connection, names, query(names, unpark).bind(id).bind(key)).await?;
    Ok(asked.rows_affected())
}

pub(super) async fn discard(
    connection: &mut PgConnection,
    names: &Names,
    ids: &[i64],
    extent: Extent,
) -> Result<Vec<ParkedEvent>, sqlx::Error> {
    macro_rules! discard {
        ($extent:ident) => {
            concat!(
                "with gone as (delete from tidings.parked where id = any($1) returning *) ",
                parked!($extent, "select * from gone")
            )
        };
    }
    let discard = match extent {
        Extent::Head => discard!(head),
        Extent::Shown => discard!(shown),
        Extent::Whole => discard!(whole),
    };
    let rows = fetch_all(connection, names, query(names, discard).bind(ids)).await?;
    rows.iter().map(shown_event).collect()
}

fn shown_event(row: &PgRow) -> Result<ParkedEvent, sqlx::Error> {
    Ok(ParkedEvent {
        id: row.try_get(0)?,
        event: event_or_nil(bytes(row, 1)?),
        name: shown(row, 2)?.unwrap_or_default(),
        version: row.try_get(3)?,
        key: shown(row, 4)?,
        headers: shown(row, 5)?.unwrap_or_default(),
        payload: bytes(row, 6)?.unwrap_or_default().to_vec(),
        payload_bytes: unsigned(row.try_get::<i32, _>(12)?.into()),
        at: moment(row, 7)?,
        parked_at: moment(row, 8)?,
        error: shown(row, 9)?.unwrap_or_default(),
        blocked_on: shown(row, 10)?,
        unpark_requested_at: perhaps(row, 11)?,
        is_returning: row.try_get(13)?,
    })
}
