//! The statements about past events: the rows that the relay has passed, and the ledger. Never writes.

use std::{collections::HashSet, hash::BuildHasher};

use futures::TryStreamExt;
use sqlx::{Row as _, Sqlite, SqliteConnection, sqlite::SqliteArguments};
use tidings_contract::EventId;
use uuid::Uuid;

use super::columns::{bytes, read, rows, shown};
use crate::outbox::store::{
    Entry, Names, Rows,
    columns::{LONGEST_PAYLOAD, event_or_nil},
    ledger::{Beginning, LedgerKind, LedgerStatements, Passed, PassedQuery, Relayed},
    positions_from, unsigned,
};

/// The rows of a [`PassedQuery`].
macro_rules! relayed {
    () => {
        "where id > ?1 and id <= cast(?2 as integer) and (?3 is null or created_at >= ?3)
              and (?5 is null or created_at <= ?5) and id <= ?6
              and (?7 = '[]' or name in (select value from json_each(?7))) and (?8 is null or key = ?8)
              and not exists (select 1 from tidings_parked as parked where parked.id = log.id)
            order by id limit ?4"
    };
}

impl LedgerStatements for Sqlite {
    async fn passed(
        connection: &mut SqliteConnection,
        names: &Names,
    ) -> Result<Passed, sqlx::Error> {
        let ask = "select cast(cursor as text), streams from tidings_relay";
        let row = sqlx::query(names.sql(ask, '_'))
            .fetch_one(&mut *connection)
            .await?;
        Ok(Passed {
            cursor: row.try_get(0)?,
            page: None,
            streams: positions_from(row.try_get(1)?)?,
        })
    }

    async fn parked_ids(
        connection: &mut SqliteConnection,
        names: &Names,
        ids: &[i64],
    ) -> Result<HashSet<i64>, sqlx::Error> {
        let ask = "select id from tidings_parked where id in (select value from json_each(?1))
            union all
            select last_id from tidings_ledger
            where last_id in (select value from json_each(?1)) and kind = 'discarded'";
        let ids = serde_json::to_string(ids).map_err(|error| sqlx::Error::Encode(error.into()))?;
        let rows = sqlx::query(names.sql(ask, '_'))
            .bind(ids)
            .fetch_all(&mut *connection)
            .await?;
        rows.iter().map(|row| row.try_get(0)).collect()
    }

    async fn relayed(
        connection: &mut SqliteConnection,
        names: &Names,
        selection: &PassedQuery<'_>,
    ) -> Result<Vec<Relayed>, sqlx::Error> {
        match selection.payloads {
            Some(_) => one_by_one(connection, names, selection).await,
            None => match together(connection, names, selection).await? {
                Some(rows) => Ok(rows),
                None => one_by_one(connection, names, selection).await,
            },
        }
    }

    async fn relayed_rows(
        connection: &mut SqliteConnection,
        names: &Names,
        selection: &PassedQuery<'_>,
    ) -> Result<Rows, sqlx::Error> {
        let ask = rows!("67108864", "from tidings_outbox as log ", relayed!());
        let found = asked(names, ask, selection)?.fetch(connection);
        Rows::read(found, |row| read(&row, LONGEST_PAYLOAD).map(Some)).await
    }

    async fn beginnings(
        connection: &mut SqliteConnection,
        names: &Names,
        from: i64,
    ) -> Result<Vec<Beginning>, sqlx::Error> {
        let ask = "select stream, incarnation, min(first_sequence) from tidings_ledger
            where last_id >= ?1 and kind not in ('copied', 'discarded') group by stream, incarnation order by stream, min(created_at)";
        let rows = sqlx::query(names.sql(ask, '_'))
            .bind(from)
            .fetch_all(&mut *connection)
            .await?;
        let beginnings = rows.iter().map(|row| {
            Ok(Beginning {
                stream: row.try_get(0)?,
                incarnation: row.try_get(1)?,
                sequence: unsigned(row.try_get(2)?),
            })
        });
        beginnings.collect()
    }

    async fn entries(
        connection: &mut SqliteConnection,
        names: &Names,
        behind: i64,
        limit: usize,
    ) -> Result<Vec<Entry>, sqlx::Error> {
        let ask =
            "select first_id, last_id, events, stream, incarnation, first_sequence, last_sequence, kind
            from tidings_ledger where last_id > ?1 order by last_id limit ?2";
        let rows = sqlx::query(names.sql(ask, '_'))
            .bind(behind)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *connection)
            .await?;
        let entries = rows.iter().map(|row| {
            Ok(Entry {
                first_id: row.try_get(0)?,
                last_id: row.try_get(1)?,
                events: row.try_get(2)?,
                stream: row.try_get(3)?,
                incarnation: row.try_get(4)?,
                first_sequence: unsigned(row.try_get(5)?),
                last_sequence: unsigned(row.try_get(6)?),
                kind: LedgerKind::parse(row.try_get(7)?),
            })
        });
        entries.collect()
    }
}

/// Returns which of these row ids the relay has not passed.
pub(super) async fn ahead(
    connection: &mut SqliteConnection,
    names: &Names,
    cursor: &i64,
    ids: &[i64],
) -> Result<HashSet<i64>, sqlx::Error> {
    let ahead: Vec<i64> = ids.iter().copied().filter(|id| id > cursor).collect();
    if ahead.is_empty() {
        return Ok(HashSet::new());
    }
    let ask = "select id from tidings_outbox where id in (select value from json_each(?1))";
    let ids = serde_json::to_string(&ahead).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let rows = sqlx::query(names.sql(ask, '_'))
        .bind(ids)
        .fetch_all(&mut *connection)
        .await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

type BoundQuery = sqlx::query::Query<'static, Sqlite, SqliteArguments>;

fn asked(
    names: &Names,
    ask: &'static str,
    selection: &PassedQuery<'_>,
) -> Result<BoundQuery, sqlx::Error> {
    let wanted = serde_json::to_string(&selection.range.names)
        .map_err(|error| sqlx::Error::Encode(error.into()))?;
    Ok(sqlx::query(names.sql(ask, '_'))
        .bind(selection.behind)
        .bind(selection.passed.cursor.clone())
        .bind(selection.range.since.map(|since| since.timestamp_micros()))
        .bind(i64::try_from(selection.limit).unwrap_or(i64::MAX))
        .bind(selection.range.until.map(|until| until.timestamp_micros()))
        .bind(selection.range.last)
        .bind(wanted)
        .bind(selection.range.key.clone()))
}

/// Reads rows one by one, with the hashes of the payloads when they are wanted.
async fn one_by_one(
    connection: &mut SqliteConnection,
    names: &Names,
    selection: &PassedQuery<'_>,
) -> Result<Vec<Relayed>, sqlx::Error> {
    let ask = concat!(
        "select id, event, substr(name, 1, 300), substr(key, 1, 300), octet_length(payload),
            case when ?9 and octet_length(payload) <= 67108864 then payload end,
            case typeof(version) when 'integer' then version else 0 end
        from tidings_outbox as log ",
        relayed!()
    );
    let asked = asked(names, ask, selection)?.bind(selection.payloads.is_some());
    let mut rows = asked.fetch(connection);
    let mut relayed = Vec::new();
    while let Some(row) = rows.try_next().await? {
        let hasher = selection.payloads.zip(bytes(&row, 5)?);
        relayed.push(Relayed {
            id: row.try_get(0)?,
            event: event_or_nil(bytes(&row, 1)?),
            name: shown(&row, 2)?.unwrap_or_default(),
            version: row.try_get(6)?,
            key: shown(&row, 3)?,
            bytes: usize::try_from(row.try_get::<i64, _>(4)?).unwrap_or(0),
            payload: hasher.map(|(hasher, payload)| hasher.hash_one(payload)),
        });
    }
    Ok(relayed)
}

/// Reads all rows as one text: each row would be a round trip between the connection's thread and this one. Returns
/// nothing when a row is not an event and does not fit into the text.
async fn together(
    connection: &mut SqliteConnection,
    names: &Names,
    selection: &PassedQuery<'_>,
) -> Result<Option<Vec<Relayed>>, sqlx::Error> {
    let ask = concat!(
        "select json_group_array(json_array(id, hex(event), name, key, bytes, version)) from (
            select id, event, case when octet_length(name) <= 1000 then name else substr(name, 1, 300) end as name,
                case when octet_length(key) <= 1000 then key else substr(key, 1, 300) end as key,
                octet_length(payload) as bytes, version
            from tidings_outbox as log ",
        relayed!(),
        ")"
    );
    let row = match asked(names, ask, selection)?.fetch_one(connection).await {
        Err(error) if is_no_json(&error) => return Ok(None),
        row => row?,
    };
    Ok(outlined(bytes(&row, 0)?.unwrap_or_default()))
}

/// Parses the rows of that text.
fn outlined(rows: &[u8]) -> Option<Vec<Relayed>> {
    let rows: Vec<Outline<'_>> = serde_json::from_slice(rows).ok()?;
    let rows = rows
        .into_iter()
        .map(|(id, event, name, key, bytes, version)| {
            Some(Relayed {
                id,
                event: EventId::from(Uuid::try_parse(event).ok()?),
                name,
                version,
                key,
                bytes,
                payload: None,
            })
        });
    rows.collect()
}

/// Row id, event, name, key, size of the payload and version.
type Outline<'a> = (i64, &'a str, String, Option<String>, usize, i64);

/// Whether a value cannot be part of a JSON text: SQLite has no error code for that.
fn is_no_json(error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    error.is_some_and(|error| error.message().starts_with("JSON cannot hold"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_rows_together() {
        let seed = r#"[[17,"0123456789ABCDEF0123456789ABCDEF","user.created","k",7,1],
            [-9223372036854775808,"0123456789abcdef0123456789abcdef","a.b",null,0,9223372036854775807]]"#;
        tidings_fuzz::fuzz_json("rows together", &[seed, "[]"], |rows| {
            outlined(rows).is_some()
        });
    }
}
