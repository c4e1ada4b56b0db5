//! The inbox on SQLite: a ring of tables that are emptied as a whole. Never updates the row of an event that was
//! handled.

use sqlx::{Connection, Row as _, Sqlite, SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use crate::outbox::store::{
    Dialect, Names,
    inbox::{Added, InboxStatements, Memory, Remembered},
    inbox_ring::{Ring, may_empty, slot_of},
};

const RING: &str = "select unixepoch() / slot_seconds, slot_seconds, first_period,
        unixepoch('subsec') - unixepoch() / slot_seconds * slot_seconds
    from tidings_inbox_ring";

impl InboxStatements for Sqlite {
    /// The savepoint exists as long as the transaction does.
    const BEGIN_TO_REMEMBER: &'static str = "begin immediate; savepoint tidings_inbox";

    /// This transaction is the only writer, so the ring that it has read is valid until it ends.
    async fn remember(
        connection: &mut SqliteConnection,
        names: &Names,
        memory: &Memory<'_>,
    ) -> Result<Remembered, sqlx::Error> {
        if let &[event] = memory.events
            && let Some(ring) = remember_new(connection, names, memory, event).await?
        {
            let added = Added::All;
            return Ok(Remembered {
                ring,
                added,
                backend: None,
            });
        }
        let row = sqlx::query(names.sql(RING, '_'))
            .fetch_one(&mut *connection)
            .await?;
        let ring = ring(&row)?;
        let is_known = ring.slot_seconds == memory.slot_seconds;
        if !is_known || !ring.reaches(memory.period) {
            let added = Added::Only(Vec::new());
            return Ok(Remembered {
                ring,
                added,
                backend: None,
            });
        }
        // One blob holds all ids, so that their number does not change the statement.
        let insert = "with recursive position (byte) as (
                select 0 union all select byte + 16 from position where byte + 16 < length(?1))
            insert into $slot (event, subscriber)
            select substr(?1, byte + 1, 16), ?2 from position where true
            on conflict do nothing returning event";
        let ids: Vec<u8> = memory
            .events
            .iter()
            .flat_map(Uuid::as_bytes)
            .copied()
            .collect();
        let added = sqlx::query(sql(names, slot_of(memory.period), insert))
            .bind(ids)
            .bind(memory.scope)
            .fetch_all(connection)
            .await?;
        let added = if added.len() == memory.events.len() {
            Added::All
        } else {
            let ids: Result<_, sqlx::Error> = added.iter().map(|row| row.try_get(0)).collect();
            Added::Only(ids?)
        };
        Ok(Remembered {
            ring,
            added,
            backend: None,
        })
    }

    async fn forget(
        connection: &mut SqliteConnection,
        names: &Names,
        memory: &Memory<'_>,
    ) -> Result<(), sqlx::Error> {
        let delete = "delete from $slot where event = ?1 and subscriber = ?2";
        for event in memory.events {
            sqlx::query(sql(names, slot_of(memory.period), delete))
                .bind(event)
                .bind(memory.scope)
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }

    async fn dead_lettered(
        connection: &mut SqliteConnection,
        names: &Names,
        memory: &Memory<'_>,
    ) -> Result<Vec<(Uuid, String)>, sqlx::Error> {
        let select = "select dead_letter from $slot where event = ?1 and subscriber = ?2 and dead_letter is not null";
        let mut notes = Vec::new();
        for event in memory.events {
            let row = sqlx::query(sql(names, slot_of(memory.period), select))
                .bind(event)
                .bind(memory.scope)
                .fetch_optional(&mut *connection)
                .await?;
            if let Some(row) = row {
                notes.push((*event, row.try_get(0)?));
            }
        }
        Ok(notes)
    }

    async fn mark(
        connection: &mut SqliteConnection,
        names: &Names,
        memory: &Memory<'_>,
        from: Option<&str>,
        to: Option<&str>,
    ) -> Result<bool, sqlx::Error> {
        let update = "update $slot set dead_letter = ?4 where event = ?1 and subscriber = ?2 and dead_letter is ?3";
        let mut changed = 0;
        for event in memory.events {
            let done = sqlx::query(sql(names, slot_of(memory.period), update))
                .bind(event)
                .bind(memory.scope)
                .bind(from)
                .bind(to)
                .execute(&mut *connection)
                .await?;
            changed += done.rows_affected();
        }
        Ok(changed > 0)
    }

    async fn empty_dead_slot(
        connection: &mut SqliteConnection,
        names: &Names,
    ) -> Result<Option<usize>, sqlx::Error> {
        let mut tx = connection.begin_with(Self::BEGIN).await?;
        let row = sqlx::query(names.sql(RING, '_'))
            .fetch_one(&mut *tx)
            .await?;
        let ring = ring(&row)?;
        if !may_empty(ring.slot_seconds, row.try_get(3)?) {
            return Ok(None);
        }
        let slot = ring.dead_slot();
        let emptied = sqlx::query(sql(names, slot, "delete from $slot"))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok((emptied.rows_affected() > 0).then_some(slot))
    }

    async fn say(connection: &mut SqliteConnection, what: &'static str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(what).execute(connection).await.map(drop)
    }

    async fn conclude(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
        let conclude = "release tidings_inbox; commit";
        match sqlx::raw_sql(conclude).execute(connection).await {
            Ok(_) => Ok(true),
            Err(sqlx::Error::Database(said)) if said.message().contains("no such savepoint") => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn is_lost(error: &sqlx::Error) -> bool {
        error.as_database_error().is_none()
    }

    fn is_refusal(error: &sqlx::Error) -> bool {
        const CONSTRAINT: i32 = 19;
        let code = error.as_database_error().and_then(|error| error.code());
        let code = code.and_then(|code| code.parse::<i32>().ok());
        code.is_some_and(|code| code & 0xff == CONSTRAINT)
    }
}

/// Adds one event with a single statement: each statement is a round trip to another thread, while no other connection
/// can write. `None` when the event was not added.
async fn remember_new(
    connection: &mut SqliteConnection,
    names: &Names,
    memory: &Memory<'_>,
    event: Uuid,
) -> Result<Option<Ring>, sqlx::Error> {
    let insert = "insert into $slot (event, subscriber)
        select ?1, ?2 from tidings_inbox_ring
        where slot_seconds = ?3
          and ?4 between max(unixepoch() / ?3 - 13, first_period) and unixepoch() / ?3 + 1
        on conflict do nothing
        returning unixepoch() / ?3, ?3, (select first_period from tidings_inbox_ring)";
    let row = sqlx::query(sql(names, slot_of(memory.period), insert))
        .bind(event)
        .bind(memory.scope)
        .bind(memory.slot_seconds)
        .bind(memory.period)
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(ring).transpose()
}

fn sql(names: &Names, slot: usize, text: &str) -> sqlx::AssertSqlSafe<String> {
    let text = text.replace("$slot", &format!("tidings_inbox_{slot}"));
    // Safe: constants, a number and a checked identifier.
    sqlx::AssertSqlSafe(names.text(&text, '_'))
}

fn ring(row: &SqliteRow) -> Result<Ring, sqlx::Error> {
    Ok(Ring {
        now: row.try_get(0)?,
        slot_seconds: row.try_get(1)?,
        first: row.try_get(2)?,
    })
}
