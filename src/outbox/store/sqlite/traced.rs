//! The statements about single events: rows, ledger and inbox. Never writes.

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use sqlx::{Row as _, Sqlite, SqliteConnection, sqlite::SqliteRow};
use tidings_contract::EventId;
use uuid::Uuid;

use super::columns::{bytes, integer, moment, perhaps, shown};
use crate::outbox::store::{
    Names,
    columns::{event_or_nil, nearest_version},
    ledger::LedgerKind,
    trace::{TraceQuery, TraceStatements, TracedBatch, TracedRow, TracedState},
    unsigned,
};

impl TraceStatements for Sqlite {
    /// No index covers this: it reads the whole log, which is as long as the retention.
    async fn rows_of(
        connection: &mut SqliteConnection,
        names: &Names,
        asked: &TraceQuery,
    ) -> Result<Vec<TracedRow>, sqlx::Error> {
        let rows = "select id, created_at, event, substr(name, 1, 300), version, substr(key, 1, 300),
                   case when octet_length(headers) <= 400000 then headers end, state, moment, error, blocked_on, unpark_requested_at
            from (
                select id, created_at, event, name, version, key, headers,
                       case when id <= cursor then 'passed' else 'waits' end as state,
                       null as moment, null as error, null as blocked_on, null as unpark_requested_at
                from tidings_outbox as log cross join (select cursor from tidings_relay) as relay
                where not exists (select 1 from tidings_parked as parked where parked.id = log.id)
                union all
                select id, created_at, event, name, version, key, headers, 'parked', parked_at, error, blocked_on, unpark_requested_at
                from tidings_parked
                union all
                select position, created_at, event, name, version, key, headers, 'delayed', due, null, null, null
                from tidings_delayed
            ) as known
            where (?2 is null or key = ?2)
              and (?3 is null and (?1 is null or event = ?1) or event = ?1 or instr(headers, ?3) > 0)
              and (?4 is null or state in ('parked', 'delayed') or created_at >= ?4)
            order by created_at desc, id desc";
        let mut found = Vec::new();
        {
            let mut rows = sqlx::query(names.sql(rows, '_'))
                .bind(asked.event.map(Uuid::from))
                .bind(&asked.key)
                .bind(&asked.needle)
                .bind(asked.since.map(|since| since.timestamp_micros()))
                .fetch(&mut *connection);
            while found.len() < asked.limit
                && let Some(row) = rows.try_next().await?
            {
                let row = read(&row)?;
                if asked.means(&row) {
                    found.push(row);
                }
            }
        }
        Ok(found)
    }

    async fn batches_of(
        connection: &mut SqliteConnection,
        names: &Names,
        id: i64,
    ) -> Result<Vec<TracedBatch>, sqlx::Error> {
        let batches = "select created_at, epoch, events, first_id, last_id, stream, incarnation, first_sequence, last_sequence, kind
            from tidings_ledger where last_id >= ?1 and first_id <= ?1 order by created_at";
        let rows = sqlx::query(names.sql(batches, '_'))
            .bind(id)
            .fetch_all(&mut *connection)
            .await?;
        rows.iter().map(read_batch).collect()
    }

    async fn batches_at(
        connection: &mut SqliteConnection,
        names: &Names,
        stream: &str,
        incarnation: &str,
        sequence: i64,
    ) -> Result<Vec<TracedBatch>, sqlx::Error> {
        let batches = "select created_at, epoch, events, first_id, last_id, stream, incarnation, first_sequence, last_sequence, kind
            from tidings_ledger
            where stream = ?1 and incarnation = ?2 and first_sequence <= ?3 and last_sequence >= ?3 order by created_at";
        let rows = sqlx::query(names.sql(batches, '_'))
            .bind(stream)
            .bind(incarnation)
            .bind(sequence)
            .fetch_all(&mut *connection)
            .await?;
        rows.iter().map(read_batch).collect()
    }

    async fn scopes_of(
        connection: &mut SqliteConnection,
        names: &Names,
        event: EventId,
    ) -> Result<Vec<(String, Option<String>)>, sqlx::Error> {
        let scopes = "select subscriber, dead_letter from tidings_inbox where event = ?1 order by subscriber";
        let rows = sqlx::query(names.sql(scopes, '_'))
            .bind(event.as_uuid())
            .fetch_all(&mut *connection)
            .await?;
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect()
    }

    async fn oldest(
        connection: &mut SqliteConnection,
        names: &Names,
    ) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
        let oldest = "select created_at from tidings_outbox order by id limit 1";
        let row = sqlx::query(names.sql(oldest, '_'))
            .fetch_optional(&mut *connection)
            .await?;
        row.map(|row| moment(&row, 0)).transpose()
    }
}

fn read(row: &SqliteRow) -> Result<TracedRow, sqlx::Error> {
    let state = match row.try_get::<&str, _>(7)? {
        "parked" => TracedState::Parked {
            at: moment(row, 8)?,
            error: shown(row, 9)?.unwrap_or_default(),
            blocked_on: shown(row, 10)?,
            unpark_requested_at: perhaps(row, 11)?,
            is_returning: false,
        },
        "delayed" => TracedState::Delayed {
            due: moment(row, 8)?,
        },
        state => TracedState::Log {
            is_passed: state == "passed",
        },
    };
    Ok(TracedRow {
        id: row.try_get(0)?,
        at: moment(row, 1)?,
        event: event_or_nil(bytes(row, 2)?),
        name: shown(row, 3)?.unwrap_or_default(),
        version: nearest_version(integer(row, 4)?),
        key: shown(row, 5)?,
        headers: shown(row, 6)?.unwrap_or_default(),
        state,
    })
}

fn read_batch(row: &SqliteRow) -> Result<TracedBatch, sqlx::Error> {
    Ok(TracedBatch {
        at: moment(row, 0)?,
        epoch: row.try_get(1)?,
        events: row.try_get(2)?,
        first_id: row.try_get(3)?,
        last_id: row.try_get(4)?,
        stream: row.try_get(5)?,
        incarnation: row.try_get(6)?,
        first_sequence: unsigned(row.try_get(7)?),
        last_sequence: unsigned(row.try_get(8)?),
        kind: LedgerKind::parse(row.try_get(9)?),
    })
}
