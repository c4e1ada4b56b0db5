//! The inbox on Postgres: a ring of tables that are truncated. Never updates the row of an event that was handled.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{
    slots,
    statement_scope::{begin, query, query_of},
};
use crate::{
    error_text::said,
    outbox::store::{
        Dialect, Names,
        inbox::{Added, InboxStatements, Memory, Remembered},
        inbox_ring::{Ring, may_empty, slot_of},
        sessions::Backend,
    },
};

/// One statement per slot. It names the slot, so it has the lock before it reads the clock: no slot is emptied between
/// the two.
macro_rules! for_each_slot {
    ($before:literal, $after:literal) => {
        for_each_slot!($before, $after, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    ($before:literal, $after:literal, $($slot:literal)+) => {
        [$(concat!($before, $slot, $after)),+]
    };
}

/// The variant for one event, without an array, which costs more than a single row.
///
/// Both variants limit, for this transaction, how long Postgres waits for the client: a host that is gone closes no
/// connection, and its rows would stay locked for hours. While a statement runs, the server checks whether the client
/// has closed the connection, where the system supports that: otherwise a worker that is killed would hold its event
/// until the statement is done. Both variants also set a marker that exists as long as this transaction does. And they
/// wait only a moment for an event that another transaction holds: that transaction's client may be gone, and would tie
/// up the connections of all waiting transactions. This lock timeout does not apply to the handler's own statements.
const REMEMBER_ONE: [&str; 16] = for_each_slot!(
    "with ring as materialized (
        select floor(date_part('epoch', clock_timestamp()) / slot_seconds)::bigint as now,
               slot_seconds::bigint as slot_seconds, first_period, current_setting('lock_timeout') as lock_timeout,
               set_config('lock_timeout', '4s', true)
        from tidings.inbox_ring
    ), added as (
        insert into tidings.inbox_",
    " (event, subscriber)
        select $1::uuid, $2 from ring
        where slot_seconds = $3 and $4::bigint between greatest(now - 13, first_period) and now + 1
        on conflict do nothing returning 1
    )
    select now, slot_seconds, first_period, exists (select from added),
           set_config('idle_in_transaction_session_timeout', $5, true), set_config('tidings_inbox.open', 'on', true),
           set_config('client_connection_check_interval', case when version() like '%linux%' then '5s' else '0' end, true),
           set_config('lock_timeout', lock_timeout, true), pg_backend_pid(), now()
    from ring"
);

const REMEMBER: [&str; 16] = for_each_slot!(
    "with ring as materialized (
        select floor(date_part('epoch', clock_timestamp()) / slot_seconds)::bigint as now,
               slot_seconds::bigint as slot_seconds, first_period, current_setting('lock_timeout') as lock_timeout,
               set_config('lock_timeout', '4s', true)
        from tidings.inbox_ring
    ), added as (
        insert into tidings.inbox_",
    " (event, subscriber)
        select event, $2 from ring, unnest($1::uuid[]) as event
        where slot_seconds = $3 and $4::bigint between greatest(now - 13, first_period) and now + 1
        on conflict do nothing returning event
    )
    select now, slot_seconds, first_period, count = cardinality($1::uuid[]),
           case when count < cardinality($1::uuid[]) then events end,
           set_config('idle_in_transaction_session_timeout', $5, true), set_config('tidings_inbox.open', 'on', true),
           set_config('client_connection_check_interval', case when version() like '%linux%' then '5s' else '0' end, true),
           set_config('lock_timeout', lock_timeout, true), pg_backend_pid(), now()
    from ring, (select count(*), array_agg(event) as events from added) as added"
);

const FORGET: [&str; 16] = for_each_slot!(
    "delete from tidings.inbox_",
    " where event = any($1) and subscriber = $2"
);

const GIVEN_UP: [&str; 16] = for_each_slot!(
    "select event, dead_letter from tidings.inbox_",
    " where event = any($1) and subscriber = $2 and dead_letter is not null"
);

const MARK: [&str; 16] = for_each_slot!(
    "update tidings.inbox_",
    " set dead_letter = $4 where event = any($1) and subscriber = $2 and dead_letter is not distinct from $3"
);

const RING: &str = "select floor(date_part('epoch', clock_timestamp()) / slot_seconds)::bigint,
        slot_seconds::bigint, first_period,
        date_part('epoch', clock_timestamp()) - slot_seconds * floor(date_part('epoch', clock_timestamp()) / slot_seconds)
    from tidings.inbox_ring";

impl InboxStatements for Postgres {
    const BEGIN_TO_REMEMBER: &'static str = Self::BEGIN;

    async fn remember(
        connection: &mut PgConnection,
        names: &Names,
        memory: &Memory<'_>,
    ) -> Result<Remembered, sqlx::Error> {
        let slot = slot_of(memory.period);
        let asking = match memory.events {
            [event] => query(names, REMEMBER_ONE[slot]).bind(event),
            events => query(names, REMEMBER[slot]).bind(events),
        };
        let row = asking
            .bind(memory.scope)
            .bind(memory.slot_seconds)
            .bind(memory.period)
            .bind(memory.idle.as_millis().to_string())
            .fetch_one(connection)
            .await?;
        let added = match (row.try_get(3)?, memory.events) {
            (true, _) => Added::All,
            (false, [_]) => Added::Only(Vec::new()),
            (false, _) => {
                let added: Option<Vec<Uuid>> = row.try_get(4)?;
                Added::Only(added.unwrap_or_default())
            }
        };
        let ring = Ring {
            now: row.try_get(0)?,
            slot_seconds: row.try_get(1)?,
            first: row.try_get(2)?,
        };
        let began: DateTime<Utc> = row.try_get(row.len() - 1)?;
        let backend = Backend {
            pid: row.try_get(row.len() - 2)?,
            began: began.timestamp_micros(),
        };
        Ok(Remembered {
            ring,
            added,
            backend: Some(backend),
        })
    }

    async fn forget(
        connection: &mut PgConnection,
        names: &Names,
        memory: &Memory<'_>,
    ) -> Result<(), sqlx::Error> {
        query(names, FORGET[slot_of(memory.period)])
            .bind(memory.events)
            .bind(memory.scope)
            .execute(connection)
            .await
            .map(drop)
    }

    async fn dead_lettered(
        connection: &mut PgConnection,
        names: &Names,
        memory: &Memory<'_>,
    ) -> Result<Vec<(Uuid, String)>, sqlx::Error> {
        let rows = query(names, GIVEN_UP[slot_of(memory.period)])
            .bind(memory.events)
            .bind(memory.scope)
            .fetch_all(connection)
            .await?;
        let note = |row: PgRow| Ok((row.try_get(0)?, row.try_get(1)?));
        rows.into_iter().map(note).collect()
    }

    async fn mark(
        connection: &mut PgConnection,
        names: &Names,
        memory: &Memory<'_>,
        from: Option<&str>,
        to: Option<&str>,
    ) -> Result<bool, sqlx::Error> {
        let changed = query(names, MARK[slot_of(memory.period)])
            .bind(memory.events)
            .bind(memory.scope)
            .bind(from)
            .bind(to)
            .execute(connection)
            .await?;
        Ok(changed.rows_affected() > 0)
    }

    /// The ring is read again under the lock: the clock may have been set, or the periods made longer.
    async fn empty_dead_slot(
        connection: &mut PgConnection,
        names: &Names,
    ) -> Result<Option<usize>, sqlx::Error> {
        let mut tx = begin(connection).await?;
        let Some(slot) = due(&mut tx, names).await? else {
            return Ok(None);
        };
        // Safe: constants, a number and a checked identifier.
        let sql = |text: &str| {
            let text = text.replace("$slot", &format!("tidings.inbox_{slot}"));
            sqlx::AssertSqlSafe(names.text(&text, '.'))
        };
        let any = query_of(names, sql("select exists (select from $slot)"));
        if !any.fetch_one(&mut *tx).await?.try_get::<bool, _>(0)? {
            return Ok(None);
        }
        let lock =
            "set local lock_timeout = '20ms'; lock table only $slot in access exclusive mode";
        if let Err(error) = sqlx::raw_sql(sql(lock)).execute(&mut *tx).await {
            if slots::is_in_use(&error) {
                tracing::debug!(
                    slot,
                    error = said(&error),
                    "inbox slot in use: it is emptied later"
                );
                return Ok(None);
            }
            return Err(error);
        }
        if due(&mut tx, names).await? != Some(slot) {
            return Ok(None);
        }
        sqlx::raw_sql(sql("truncate table only $slot"))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(Some(slot))
    }

    async fn say(connection: &mut PgConnection, what: &'static str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(what).execute(connection).await.map(drop)
    }

    /// After a failed statement, Postgres answers COMMIT without an error, although it has rolled back. So a query in
    /// the same message checks first that the marker still exists.
    async fn conclude(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        const DIVISION_BY_ZERO: &str = "22012";
        let conclude =
            "select 1 / (coalesce(current_setting('tidings_inbox.open', true), '') = 'on')::int;
            commit";
        match sqlx::raw_sql(conclude).execute(connection).await {
            Ok(_) => Ok(true),
            Err(sqlx::Error::Database(said))
                if said.code().as_deref() == Some(DIVISION_BY_ZERO) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn is_lost(error: &sqlx::Error) -> bool {
        let code = error.as_database_error().and_then(|error| error.code());
        // Ended connections, and servers that shut down.
        code.is_none_or(|code| code.starts_with("08") || code.starts_with("57P"))
    }

    fn is_refusal(error: &sqlx::Error) -> bool {
        let code = error.as_database_error().and_then(|error| error.code());
        // Data, constraints, a transaction that had failed before, statements, rights, user-defined errors.
        const CLASSES: [&str; 7] = ["22", "23", "25", "42", "44", "P0", "54"];
        code.is_some_and(|code| {
            // Read-only, and closed because the client was silent for too long.
            let is_state = code == "25006" || code == "25P03";
            !is_state && CLASSES.iter().any(|class| code.starts_with(class))
        })
    }
}

/// Returns the slot that may be emptied now.
async fn due(connection: &mut PgConnection, names: &Names) -> Result<Option<usize>, sqlx::Error> {
    let row = query(names, RING).fetch_one(connection).await?;
    let ring = Ring {
        now: row.try_get(0)?,
        slot_seconds: row.try_get(1)?,
        first: row.try_get(2)?,
    };
    Ok(may_empty(ring.slot_seconds, row.try_get(3)?).then(|| ring.dead_slot()))
}
