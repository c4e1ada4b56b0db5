//! The statements about single events: rows, ledger and inbox. Never writes.

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use sqlx::{PgConnection, Postgres, Row as _, postgres::PgRow};
use tidings_contract::EventId;
use uuid::Uuid;

use super::{
    columns::{bytes, is_passed, moment, perhaps, shown},
    statement_scope::{StatementScope, fetch_all, fetch_optional, query},
};
use crate::outbox::store::{
    Names,
    columns::event_or_nil,
    ledger::LedgerKind,
    trace::{TraceQuery, TraceStatements, TracedBatch, TracedRow, TracedState},
    unsigned,
};

impl TraceStatements for Postgres {
    /// No index covers this: it reads the whole log, which is as long as the retention.
    async fn rows_of(
        connection: &mut PgConnection,
        names: &Names,
        asked: &TraceQuery,
    ) -> Result<Vec<TracedRow>, sqlx::Error> {
        let rows = concat!(
            "select id, created_at, event, tidings.utf8(left(name, 300)), version, tidings.utf8(left(key, 300)),
                   tidings.utf8(case when octet_length(headers) <= 400000 then headers end),
                   state, moment, tidings.utf8(error), tidings.utf8(blocked_on), unpark_requested_at
            from (
                select id, created_at, event, name, version, key, headers,
                       case when ",
            is_passed!(),
            " then 'passed' else 'waits' end as state,
                       null::timestamptz as moment, null as error, null as blocked_on, null::timestamptz as unpark_requested_at
                from tidings.outbox as log cross join tidings.relay as relay
                where not exists (select from tidings.parked as parked where parked.id = log.id)
                union all
                select id, created_at, event, name, version, key, headers, 'parked', parked_at, error, blocked_on, unpark_requested_at
                from tidings.parked
                union all
                select position, created_at, event, name, version, key, headers, 'delayed', due, null, null, null
                from tidings.delayed
            ) as known
            where ($2::text is null or key = $2)
              and ($3::text is null and ($1::uuid is null or event = $1) or event = $1 or strpos(headers, $3) > 0)
              and ($4::timestamptz is null or state in ('parked', 'delayed') or created_at >= $4)
            order by created_at desc, id desc"
        );
        let mut scope = StatementScope::begin(connection, names).await?;
        let mut found = Vec::new();
        {
            let mut rows = query(names, rows)
                .bind(asked.event.map(Uuid::from))
                .bind(&asked.key)
                .bind(&asked.needle)
                .bind(asked.since)
                .fetch(&mut *scope);
            while found.len() < asked.limit
                && let Some(row) = rows.try_next().await?
            {
                let row = read(&row)?;
                if asked.means(&row) {
                    found.push(row);
                }
            }
        }
        scope.end().await?;
        Ok(found)
    }

    async fn batches_of(
        connection: &mut PgConnection,
        names: &Names,
        id: i64,
    ) -> Result<Vec<TracedBatch>, sqlx::Error> {
        let batches = "select created_at, epoch, events, first_id, last_id, stream, incarnation, first_sequence, last_sequence, kind
            from tidings.ledger where last_id >= $1 and first_id <= $1 order by created_at";
        let rows = fetch_all(connection, names, query(names, batches).bind(id)).await?;
        rows.iter().map(read_batch).collect()
    }

    async fn batches_at(
        connection: &mut PgConnection,
        names: &Names,
        stream: &str,
        incarnation: &str,
        sequence: i64,
    ) -> Result<Vec<TracedBatch>, sqlx::Error> {
        let batches = "select created_at, epoch, events, first_id, last_id, stream, incarnation, first_sequence, last_sequence, kind
            from tidings.ledger
            where stream = $1 and incarnation = $2 and first_sequence <= $3 and last_sequence >= $3 order by created_at";
        let rows = fetch_all(
            connection,
            names,
            query(names, batches)
                .bind(stream)
                .bind(incarnation)
                .bind(sequence),
        )
        .await?;
        rows.iter().map(read_batch).collect()
    }

    async fn scopes_of(
        connection: &mut PgConnection,
        names: &Names,
        event: EventId,
    ) -> Result<Vec<(String, Option<String>)>, sqlx::Error> {
        let scopes = "select subscriber, dead_letter from tidings.inbox where event = $1 order by subscriber";
        let rows = fetch_all(
            connection,
            names,
            query(names, scopes).bind(event.as_uuid()),
        )
        .await?;
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect()
    }

    async fn oldest(
        connection: &mut PgConnection,
        names: &Names,
    ) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
        let oldest = "select created_at from tidings.outbox order by id limit 1";
        let row = fetch_optional(connection, names, query(names, oldest)).await?;
        row.map(|row| moment(&row, 0)).transpose()
    }
}

fn read(row: &PgRow) -> Result<TracedRow, sqlx::Error> {
    let state = match row.try_get(7)? {
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
        version: row.try_get(4)?,
        key: shown(row, 5)?,
        headers: shown(row, 6)?.unwrap_or_default(),
        state,
    })
}

fn read_batch(row: &PgRow) -> Result<TracedBatch, sqlx::Error> {
    Ok(TracedBatch {
        at: row.try_get(0)?,
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
