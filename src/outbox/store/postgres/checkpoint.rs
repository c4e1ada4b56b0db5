//! Writes the cursor, what was confirmed and what was restored, and renews the lease, all with one statement, under the
//! epoch. Never decides the contents.

use sqlx::{PgConnection, Row as _};

use super::{
    PgCursor,
    statement_scope::{fetch_optional, query},
};
use crate::outbox::store::{Checkpoint, Entry, Names, Tenure, Written, positions_text, sequence};

pub(super) async fn checkpoint(
    connection: &mut PgConnection,
    names: &Names,
    tenure: &Tenure,
    checkpoint: &Checkpoint<PgCursor>,
) -> Result<Option<Written>, sqlx::Error> {
    let write = "with moved as (
            update tidings.relay
            set cursor = coalesce($3::text::pg_snapshot, cursor), id_floor = coalesce($4, id_floor),
                page_snapshot = case when $3 is null then page_snapshot else $5::text::pg_snapshot end,
                page_id = case when $3 is null then page_id else $6 end,
                streams = $7::text::jsonb,
                lease_until = clock_timestamp() + make_interval(secs => $8),
                checkpointed_at = clock_timestamp(), issues = $18::text::jsonb
            where owner = $1 and epoch = $2
              -- the cursor is of one server, see fetch.rs
              and ($16 is null or $16 = extract(epoch from pg_postmaster_start_time())::text)
            returning epoch
        ), recorded as (
            insert into tidings.ledger
                (epoch, first_id, last_id, events, stream, incarnation, first_sequence, last_sequence)
            select moved.epoch, entry.*
            from moved, unnest($9::bigint[], $10::bigint[], $11::int[], $12::text[], $13::text[],
                               $14::bigint[], $15::bigint[]) as entry
        ), returned as (
            delete from tidings.parked where id = any($17::bigint[]) and exists (select from moved)
            returning key, blocked_on
        ), freed as (
            -- what waits for a stream has no followers
            select key from returned where blocked_on is null or blocked_on not like 'stream %'
        ), held as materialized (
            -- who waits for another subject is another first one; once, and not for each row that follows
            select key, min(id) as id from tidings.parked
            where key in (select key from freed) and octet_length(key) <= 256
              and blocked_on like 'subject %' and id <> all($17::bigint[])
            group by key
        ), following as (
            update tidings.parked as log set unpark_requested_at = clock_timestamp()
            where key in (select key from freed)
              and octet_length(key) <= 256 and blocked_on is null and unpark_requested_at is null and id <> all($17::bigint[])
              and not exists (select from held where held.key = log.key and held.id < log.id)
        )
        select exists (select from tidings.parked where unpark_requested_at is not null),
               exists (select from tidings.parked where blocked_on is not null)
        from moved";
    let entries = &checkpoint.ledger;
    let column = |value: fn(&Entry) -> i64| entries.iter().map(value).collect::<Vec<i64>>();
    let streams: Vec<&str> = entries.iter().map(|e| &*e.stream).collect();
    let incarnations: Vec<&str> = entries.iter().map(|e| &*e.incarnation).collect();
    let events: Vec<i32> = entries.iter().map(|e| e.events).collect();
    let cursor = checkpoint.cursor.as_ref();
    let page = cursor.and_then(|cursor| cursor.page.as_ref());
    let streams_text = positions_text(&checkpoint.streams)?;
    let moved = fetch_optional(
        connection,
        names,
        query(names, write)
            .bind(&tenure.owner)
            .bind(tenure.epoch)
            .bind(cursor.map(|cursor| &cursor.seen))
            .bind(cursor.map(|cursor| cursor.floor))
            .bind(page.map(|page| &page.snapshot))
            .bind(page.map(|page| page.last_id))
            .bind(streams_text)
            .bind(tenure.lease.as_secs_f64())
            .bind(column(|e| e.first_id))
            .bind(column(|e| e.last_id))
            .bind(events)
            .bind(streams)
            .bind(incarnations)
            .bind(column(|e| sequence(e.first_sequence)))
            .bind(column(|e| sequence(e.last_sequence)))
            .bind(cursor.map(|cursor| &cursor.server))
            .bind(&checkpoint.returned)
            .bind(&checkpoint.issues),
    )
    .await?;
    let Some(moved) = moved else { return Ok(None) };
    Ok(Some(Written {
        is_asked: moved.try_get(0)?,
        is_waiting: moved.try_get(1)?,
    }))
}
