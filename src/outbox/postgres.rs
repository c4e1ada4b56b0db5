//! The outbox on PostgreSQL 14 or newer: an insert-only log in a ring of partitions, and a cursor that
//! is a snapshot. No superuser, no extension, no session state.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use sqlx::{PgConnection, Postgres, Row as _, postgres::PgRow};
use tidings_contract::{Envelope, EventId, wire};
use uuid::Uuid;

use super::{
    status::{LastBatch, LeaseStatus, Status},
    store::{
        Bound, Checkpoint, Claim, Entry, Migration, Names, Page, Parked, Row, Statements, Tenure,
        positions_from, positions_text, sequence, unsigned,
    },
};

/// The slots of the ring, and how long one is written to.
const SLOTS: i64 = 8;
const SLOT_SECONDS: i64 = 10_800;
/// Any number will do as long as nobody else uses it; it is released with the transaction.
const LOCK_MIGRATIONS: &str = "select pg_advisory_xact_lock(7163384699739271)";

/// How far the relay is.
///
/// A row is new when `seen` does not see it. While a backlog larger than a page drains, `page` holds
/// the snapshot that it is read under, so that what commits meanwhile does not overtake what is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgCursor {
    /// Everything that this snapshot sees is confirmed or parked.
    seen: String,
    /// No row that `seen` sees has a higher id. It only splits the search, so that little is walked.
    floor: i64,
    page: Option<PagePosition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PagePosition {
    snapshot: String,
    last_id: i64,
}

impl Statements for Postgres {
    const KIND: &'static str = "postgres";
    const BEGIN: &'static str = "begin";
    const MIGRATION_TABLE: &'static str = "tidings.migration";
    const MIGRATIONS: &'static [Migration] = &[Migration {
        name: "0001_outbox",
        sql: include_str!("../../migrations/postgres/0001_outbox.sql"),
    }];
    type Cursor = PgCursor;

    fn is_missing_table(error: &sqlx::Error) -> bool {
        const UNDEFINED_TABLE: &str = "42P01";
        const UNDEFINED_SCHEMA: &str = "3F000";
        error
            .as_database_error()
            .and_then(|error| error.code())
            .is_some_and(|code| code == UNDEFINED_TABLE || code == UNDEFINED_SCHEMA)
    }

    fn migration_preamble(names: &Names) -> String {
        format!("{LOCK_MIGRATIONS};\n{}", create_migration_table(names))
    }

    fn text(names: &Names, statement: &str) -> String {
        names.text(statement, '.')
    }

    async fn begin_migration(
        connection: &mut PgConnection,
        names: &Names,
    ) -> Result<i32, sqlx::Error> {
        sqlx::query(LOCK_MIGRATIONS)
            .execute(&mut *connection)
            .await?;
        let exists = sqlx::query("select to_regclass($1) is not null")
            .bind(names.text("tidings.migration", '.'))
            .fetch_one(&mut *connection)
            .await?;
        if !exists.try_get::<bool, _>(0)? {
            sqlx::raw_sql(sqlx::AssertSqlSafe(create_migration_table(names)))
                .execute(&mut *connection)
                .await?;
        }
        let version = names.sql(
            "select coalesce(max(version), 0) from tidings.migration",
            '.',
        );
        sqlx::query(version).fetch_one(connection).await?.try_get(0)
    }

    async fn apply_migration(
        connection: &mut PgConnection,
        names: &Names,
        version: i32,
        migration: &Migration,
    ) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(names.sql(migration.sql, '.'))
            .execute(&mut *connection)
            .await?;
        let record = "insert into tidings.migration (version, name) values ($1, $2)";
        sqlx::query(names.sql(record, '.'))
            .bind(version)
            .bind(migration.name)
            .execute(connection)
            .await
            .map(drop)
    }

    /// One statement for one event or many. Ids are drawn in the order of the arrays.
    async fn insert(
        connection: &mut PgConnection,
        names: &Names,
        envelopes: &[Envelope],
    ) -> Result<(), sqlx::Error> {
        if let [envelope] = envelopes {
            return insert_one(connection, names, envelope).await;
        }
        let insert = "insert into tidings.outbox (event, name, version, key, headers, payload)
            select * from unnest($1::uuid[], $2::text[], $3::int[], $4::text[], $5::text[], $6::bytea[])";
        let events: Vec<Uuid> = envelopes.iter().map(|e| e.id().into()).collect();
        let event_names: Vec<&str> = envelopes.iter().map(|e| e.name().as_str()).collect();
        let versions: Vec<i32> = envelopes.iter().map(version_of).collect();
        let keys: Vec<Option<&str>> = envelopes.iter().map(Envelope::key).collect();
        let headers: Vec<String> = envelopes.iter().map(wire::stored_headers).collect();
        let payloads: Vec<&[u8]> = envelopes.iter().map(|e| e.payload().as_ref()).collect();
        sqlx::query(names.sql(insert, '.'))
            .bind(events)
            .bind(event_names)
            .bind(versions)
            .bind(keys)
            .bind(headers)
            .bind(payloads)
            .execute(connection)
            .await
            .map(drop)
    }

    async fn claim(
        connection: &mut PgConnection,
        names: &Names,
        owner: &str,
        lease: Duration,
    ) -> Result<Option<Claim<PgCursor>>, sqlx::Error> {
        let claim = "update tidings.relay
            set owner = $1,
                epoch = epoch + (owner is distinct from $1)::int,
                lease_until = clock_timestamp() + make_interval(secs => $2)
            where owner = $1 or lease_until < clock_timestamp()
            returning epoch, cursor::text, floor, page_snapshot::text, page_id, streams::text";
        let row = sqlx::query(names.sql(claim, '.'))
            .bind(owner)
            .bind(lease.as_secs_f64())
            .fetch_optional(connection)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let page: (Option<String>, Option<i64>) = (row.try_get(3)?, row.try_get(4)?);
        Ok(Some(Claim {
            epoch: row.try_get(0)?,
            cursor: PgCursor {
                seen: row.try_get(1)?,
                floor: row.try_get(2)?,
                page: page
                    .0
                    .zip(page.1)
                    .map(|(snapshot, last_id)| PagePosition { snapshot, last_id }),
            },
            streams: positions_from(&row.try_get::<String, _>(5)?)?,
        }))
    }

    async fn checkpoint(
        connection: &mut PgConnection,
        names: &Names,
        tenure: &Tenure,
        checkpoint: &Checkpoint<PgCursor>,
    ) -> Result<bool, sqlx::Error> {
        let write = "with moved as (
                update tidings.relay
                set cursor = coalesce($3::text::pg_snapshot, cursor), floor = coalesce($4, floor),
                    page_snapshot = case when $3 is null then page_snapshot else $5::text::pg_snapshot end,
                    page_id = case when $3 is null then page_id else $6 end,
                    streams = $7::text::jsonb,
                    lease_until = clock_timestamp() + make_interval(secs => $8),
                    checkpointed_at = clock_timestamp()
                where owner = $1 and epoch = $2
                returning epoch
            ), recorded as (
                insert into tidings.ledger
                    (epoch, first_id, last_id, events, stream, incarnation, first_sequence, last_sequence)
                select moved.epoch, entry.*
                from moved, unnest($9::bigint[], $10::bigint[], $11::int[], $12::text[], $13::text[],
                                   $14::bigint[], $15::bigint[]) as entry
            )
            select count(*) from moved";
        let entries = &checkpoint.ledger;
        let column = |value: fn(&Entry) -> i64| entries.iter().map(value).collect::<Vec<i64>>();
        let streams: Vec<&str> = entries.iter().map(|e| &*e.stream).collect();
        let incarnations: Vec<&str> = entries.iter().map(|e| &*e.incarnation).collect();
        let events: Vec<i32> = entries.iter().map(|e| e.events).collect();
        let cursor = checkpoint.cursor.as_ref();
        let page = cursor.and_then(|cursor| cursor.page.as_ref());
        let moved = sqlx::query(names.sql(write, '.'))
            .bind(&tenure.owner)
            .bind(tenure.epoch)
            .bind(cursor.map(|cursor| &cursor.seen))
            .bind(cursor.map(|cursor| cursor.floor))
            .bind(page.map(|page| &page.snapshot))
            .bind(page.map(|page| page.last_id))
            .bind(positions_text(&checkpoint.streams)?)
            .bind(tenure.lease.as_secs_f64())
            .bind(column(|e| e.first_id))
            .bind(column(|e| e.last_id))
            .bind(events)
            .bind(streams)
            .bind(incarnations)
            .bind(column(|e| sequence(e.first_sequence)))
            .bind(column(|e| sequence(e.last_sequence)))
            .fetch_one(connection)
            .await?;
        Ok(moved.try_get::<i64, _>(0)? == 1)
    }

    async fn release(
        connection: &mut PgConnection,
        names: &Names,
        tenure: &Tenure,
    ) -> Result<(), sqlx::Error> {
        let release = "update tidings.relay set owner = null, lease_until = '-infinity'
            where owner = $1 and epoch = $2";
        sqlx::query(names.sql(release, '.'))
            .bind(&tenure.owner)
            .bind(tenure.epoch)
            .execute(connection)
            .await
            .map(drop)
    }

    /// Rows and the snapshot that they were read under come from one statement.
    ///
    /// What `seen` does not see is either in its list of open transactions or at its xmax or above. The
    /// fourth part walks what lies above the floor in the order of ids and covers nearly everything. The
    /// second and third find what lies below it by transaction: ids may be drawn before the snapshot and
    /// committed after it, also by transactions at or above xmax, which is the last *completed* one's
    /// successor. Once a page has passed the floor, they are not run at all.
    ///
    /// The comparisons of pairs, the orders by (xid, id) and the limit that never limits are for the planner:
    /// without them a generic plan walks the whole log by id for every open transaction, or scans a slot
    /// that was empty when the plan was made.
    async fn fetch(
        connection: &mut PgConnection,
        names: &Names,
        cursor: &PgCursor,
        bound: Bound,
    ) -> Result<Page<PgCursor>, sqlx::Error> {
        let fetch = "
            select 0::bigint as id, null::timestamptz as at, null::uuid as event, null::text as name,
                   null::int as version, null::text as key,
                   coalesce($4, pg_current_snapshot()::text) as headers, null::bytea as payload
            union all
            select late.* from pg_snapshot_xip($1::text::pg_snapshot) as open(xid)
            cross join lateral (
                select id, at, event, name, version, key, headers, payload from tidings.outbox as log
                where (log.xid, log.id) > (open.xid, $3) and (log.xid, log.id) <= (open.xid, $2)
                  and ($4 is null or pg_visible_in_snapshot(log.xid, $4::text::pg_snapshot))
                order by log.xid, log.id limit $5) as late
            where $3 < $2
            union all
            (select id, at, event, name, version, key, headers, payload from (
                select * from tidings.outbox as log
                where log.xid >= pg_snapshot_xmax($1::text::pg_snapshot)
                  and log.xid < pg_snapshot_xmax(coalesce($4::text::pg_snapshot, pg_current_snapshot()))
                  and log.id > $3 and log.id <= $2
                  and ($4 is null or pg_visible_in_snapshot(log.xid, $4::text::pg_snapshot))
                order by log.xid, log.id limit $5 + 1000000000000) as recent
             where $3 < $2
             order by id limit $5)
            union all
            (select id, at, event, name, version, key, headers, payload from tidings.outbox as log
             where log.id > greatest($2, $3) and not pg_visible_in_snapshot(log.xid, $1::text::pg_snapshot)
               and ($4 is null or pg_visible_in_snapshot(log.xid, $4::text::pg_snapshot))
             order by log.id limit $5)
            order by id limit $5 + 1";
        let page = cursor.page.as_ref();
        let mut found = sqlx::query(names.sql(fetch, '.'))
            .bind(&cursor.seen)
            .bind(cursor.floor)
            .bind(page.map_or(0, |page| page.last_id))
            .bind(page.map(|page| &page.snapshot))
            .bind(i64::try_from(bound.rows).unwrap_or(i64::MAX))
            .fetch(connection);
        let head = found.try_next().await?.ok_or(sqlx::Error::RowNotFound)?;
        let snapshot: String = head.try_get("headers")?;
        let mut rows: Vec<Row> = Vec::new();
        let mut bytes = 0;
        while bytes < bound.bytes
            && let Some(row) = found.try_next().await?
        {
            let row = read(&row)?;
            bytes += row.payload.len();
            rows.push(row);
        }
        let is_cut = rows.len() >= bound.rows || bytes >= bound.bytes;
        let next = cursor.after(rows.last().map(|row| row.id), snapshot, is_cut);
        Ok(Page { rows, next })
    }

    async fn park(
        connection: &mut PgConnection,
        names: &Names,
        rows: &[Parked],
    ) -> Result<(), sqlx::Error> {
        let park = "insert into tidings.parked
                (id, at, event, name, version, key, headers, payload, error)
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict (id) do nothing";
        for Parked { row, error } in rows {
            sqlx::query(names.sql(park, '.'))
                .bind(row.id)
                .bind(row.at)
                .bind(row.event.as_uuid())
                .bind(&row.name)
                .bind(row.version)
                .bind(&row.key)
                .bind(&row.headers)
                .bind(row.payload.as_ref())
                .bind(error)
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }

    async fn parked_keys(
        connection: &mut PgConnection,
        names: &Names,
    ) -> Result<Vec<(String, i64)>, sqlx::Error> {
        let keys = "select key, min(id) from tidings.parked where key is not null group by key";
        let rows = sqlx::query(names.sql(keys, '.'))
            .fetch_all(connection)
            .await?;
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect()
    }

    /// Truncates one slot, if one may be: neither written to now nor next, its newest row older than
    /// the retention, all of it behind the cursor. The last is asked under the lock, because a writer
    /// that was late may have added a row.
    async fn reclaim(
        connection: &mut PgConnection,
        names: &Names,
        cursor: &PgCursor,
        retention: Duration,
    ) -> Result<Option<String>, sqlx::Error> {
        if cursor.page.is_some() {
            return Ok(None);
        }
        let now: f64 = sqlx::query("select date_part('epoch', clock_timestamp())")
            .fetch_one(&mut *connection)
            .await?
            .try_get(0)?;
        for slot in reclaimable_slots(now) {
            if reclaim_slot(connection, names, cursor, slot, retention).await? {
                return Ok(Some(format!("slot {slot}")));
            }
        }
        Ok(None)
    }

    async fn status(connection: &mut PgConnection, names: &Names) -> Result<Status, sqlx::Error> {
        let figures = "
            select
                relay.owner, relay.epoch,
                coalesce(date_part('epoch', nullif(relay.lease_until, '-infinity') - clock_timestamp()), 0),
                backlog.events, date_part('epoch', clock_timestamp() - backlog.oldest),
                (select count(*) from tidings.parked),
                last.at, last.events, last.stream, last.last_sequence
            from tidings.relay
            cross join lateral (
                select count(*) as events, min(log.at) as oldest from tidings.outbox as log
                where log.xid >= pg_snapshot_xmin(relay.cursor)
                  and not pg_visible_in_snapshot(log.xid, relay.cursor)
                  and (relay.page_id is null or log.id > relay.page_id
                       or not pg_visible_in_snapshot(log.xid, relay.page_snapshot))
            ) as backlog
            left join lateral (
                select at, events, stream, last_sequence from tidings.ledger order by last_id desc limit 1
            ) as last on true";
        let row = sqlx::query(names.sql(figures, '.'))
            .fetch_one(connection)
            .await?;
        let last_at: Option<DateTime<Utc>> = row.try_get(6)?;
        let last_batch = match last_at {
            None => None,
            Some(at) => Some(LastBatch {
                at,
                events: unsigned(row.try_get::<i32, _>(7)?.into()),
                stream: row.try_get(8)?,
                last_sequence: unsigned(row.try_get(9)?),
            }),
        };
        Ok(Status {
            backlog: unsigned(row.try_get(3)?),
            oldest_unpublished_seconds: row.try_get(4)?,
            lease: LeaseStatus {
                owner: row.try_get(0)?,
                epoch: row.try_get(1)?,
                remaining_seconds: row.try_get(2)?,
            },
            last_batch,
            parked: unsigned(row.try_get(5)?),
        })
    }
}

impl PgCursor {
    /// The cursor behind a page that was read under `snapshot` and ends with `last_id`. A page that was
    /// cut leaves the snapshot frozen and goes on by id.
    fn after(&self, last_id: Option<i64>, snapshot: String, is_cut: bool) -> Self {
        let reached = self.page.as_ref().map_or(0, |page| page.last_id);
        let last_id = last_id.unwrap_or(reached);
        if is_cut {
            return Self {
                page: Some(PagePosition { snapshot, last_id }),
                ..self.clone()
            };
        }
        Self {
            seen: snapshot,
            floor: self.floor.max(last_id),
            page: None,
        }
    }
}

/// Schema and table are asked for before: creating what is there needs the right to create.
fn create_migration_table(names: &Names) -> String {
    let table = "create table if not exists tidings.migration (
    version    integer     primary key,
    name       text        not null,
    applied_at timestamptz not null default clock_timestamp()
);";
    let schema = names.schema();
    let table = names.text(table, '.');
    format!("create schema if not exists {schema};\n{table}")
}

async fn insert_one(
    connection: &mut PgConnection,
    names: &Names,
    envelope: &Envelope,
) -> Result<(), sqlx::Error> {
    let insert = "insert into tidings.outbox (event, name, version, key, headers, payload)
        values ($1, $2, $3, $4, $5, $6)";
    sqlx::query(names.sql(insert, '.'))
        .bind(envelope.id().as_uuid())
        .bind(envelope.name().as_str())
        .bind(version_of(envelope))
        .bind(envelope.key())
        .bind(wire::stored_headers(envelope))
        .bind(envelope.payload().as_ref())
        .execute(connection)
        .await
        .map(drop)
}

/// The slots that are neither written to at `now` nor next, oldest first.
fn reclaimable_slots(now: f64) -> impl Iterator<Item = i64> {
    #[allow(clippy::cast_possible_truncation)] // seconds since 1970
    let current = now as i64 / SLOT_SECONDS;
    (2..SLOTS).map(move |ahead| (current + ahead) % SLOTS)
}

async fn reclaim_slot(
    connection: &mut PgConnection,
    names: &Names,
    cursor: &PgCursor,
    slot: i64,
    retention: Duration,
) -> Result<bool, sqlx::Error> {
    use sqlx::Connection;

    let of_slot = |text: &str| {
        let text = text.replace("tidings.outbox_", &format!("tidings.outbox_{slot}"));
        // Safe: a number and a checked identifier.
        sqlx::AssertSqlSafe(names.text(&text, '.'))
    };
    let is_old = of_slot(
        "select at < clock_timestamp() - make_interval(secs => $1) from tidings.outbox_
         order by id desc limit 1",
    );
    let old = sqlx::query(is_old)
        .bind(retention.as_secs_f64())
        .fetch_optional(&mut *connection)
        .await?;
    if !old
        .map(|row| row.try_get::<bool, _>(0))
        .transpose()?
        .unwrap_or(false)
    {
        return Ok(false);
    }
    let mut tx = connection.begin().await?;
    let lock = of_slot(
        "set local lock_timeout = '20ms'; lock table only tidings.outbox_ in access exclusive mode",
    );
    if let Err(error) = sqlx::raw_sql(lock).execute(&mut *tx).await {
        tracing::debug!(slot, %error, "the slot is in use: it is freed later");
        tx.rollback().await?;
        return Ok(false);
    }
    let unseen = of_slot(
        "select exists (select from tidings.outbox_ where not pg_visible_in_snapshot(xid, $1::text::pg_snapshot))
             or exists (select from tidings.outbox_ where at >= clock_timestamp() - make_interval(secs => $2))",
    );
    let unseen = sqlx::query(unseen)
        .bind(&cursor.seen)
        .bind(retention.as_secs_f64())
        .fetch_one(&mut *tx)
        .await?;
    if unseen.try_get::<bool, _>(0)? {
        tx.rollback().await?;
        return Ok(false);
    }
    sqlx::raw_sql(of_slot("truncate table only tidings.outbox_"))
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(true)
}

fn read(row: &PgRow) -> Result<Row, sqlx::Error> {
    Ok(Row {
        id: row.try_get(0)?,
        at: row.try_get(1)?,
        event: EventId::from(row.try_get::<Uuid, _>(2)?),
        name: row.try_get(3)?,
        version: row.try_get(4)?,
        key: row.try_get(5)?,
        headers: row.try_get(6)?,
        payload: Bytes::from(row.try_get::<Vec<u8>, _>(7)?),
    })
}

fn version_of(envelope: &Envelope) -> i32 {
    i32::try_from(envelope.version()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor() -> PgCursor {
        PgCursor {
            seen: "1:1:".into(),
            floor: 10,
            page: None,
        }
    }

    #[test]
    fn a_whole_page_moves_the_snapshot_and_raises_the_floor() {
        let next = cursor().after(Some(15), "5:9:7".into(), false);
        assert_eq!(
            next,
            PgCursor {
                seen: "5:9:7".into(),
                floor: 15,
                page: None
            }
        );
    }

    #[test]
    fn late_rows_below_the_floor_do_not_lower_it() {
        assert_eq!(cursor().after(Some(3), "5:9:".into(), false).floor, 10);
        assert_eq!(cursor().after(None, "5:9:".into(), false).floor, 10);
    }

    #[test]
    fn a_cut_page_freezes_the_snapshot_until_the_rest_is_read() {
        let cut = cursor().after(Some(15), "5:9:".into(), true);
        assert_eq!((&*cut.seen, cut.floor), ("1:1:", 10));
        let cut = cut.after(Some(18), "5:9:".into(), true);
        assert_eq!(
            cut.page,
            Some(PagePosition {
                snapshot: "5:9:".into(),
                last_id: 18
            })
        );
        let rest = cut.after(None, "5:9:".into(), false);
        assert_eq!(
            rest,
            PgCursor {
                seen: "5:9:".into(),
                floor: 18,
                page: None
            }
        );
    }

    #[test]
    fn the_slot_that_is_written_to_and_the_next_are_never_freed() {
        for hour in 0..100 {
            #[allow(clippy::cast_precision_loss)]
            let now = (hour * 3600) as f64;
            let current = hour * 3600 / SLOT_SECONDS % SLOTS;
            let slots: Vec<_> = reclaimable_slots(now).collect();
            assert_eq!(slots.len(), 6);
            assert!(!slots.contains(&current) && !slots.contains(&((current + 1) % SLOTS)));
        }
    }
}
