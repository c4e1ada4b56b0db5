//! The statements that look back: what the relay has passed, and what the ledger says of it. Never writes.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
};

use futures::TryStreamExt;
use sqlx::{Row as _, Sqlite, SqliteConnection, sqlite::SqliteArguments};
use tidings_contract::EventId;
use uuid::Uuid;

use super::read;
use crate::outbox::{
    mend::Way,
    relayed::{Archive, Beginning, Passed, Relayed, Stretch},
    store::{Entry, Names, Rows, positions_from, unsigned},
};

/// The rows that a stretch means.
macro_rules! relayed {
    ($columns:literal) => {
        concat!(
            "select ",
            $columns,
            " from tidings_outbox as log
            where id > ?1 and id <= cast(?2 as integer) and (?3 is null or at >= ?3)
              and (?5 is null or at <= ?5) and id <= ?6
              and (?7 = '[]' or name in (select value from json_each(?7))) and (?8 is null or key = ?8)
              and not exists (select 1 from tidings_parked as parked where parked.id = log.id)
            order by id limit ?4"
        )
    };
}

impl Archive for Sqlite {
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

    async fn parked_places(
        connection: &mut SqliteConnection,
        names: &Names,
        ids: &[i64],
    ) -> Result<HashSet<i64>, sqlx::Error> {
        let ask = "select id from tidings_parked where id in (select value from json_each(?1))
            union all
            select last_id from tidings_ledger
            where last_id in (select value from json_each(?1)) and way = 'discarded'";
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
        stretch: &Stretch<'_>,
    ) -> Result<Vec<Relayed>, sqlx::Error> {
        match stretch.payloads {
            Some(hasher) => with_payloads(connection, names, stretch, hasher).await,
            None => without_payloads(connection, names, stretch).await,
        }
    }

    async fn relayed_rows(
        connection: &mut SqliteConnection,
        names: &Names,
        stretch: &Stretch<'_>,
    ) -> Result<Rows, sqlx::Error> {
        let ask = relayed!("id, at, event, name, version, key, headers, payload");
        let found = asked(names, ask, stretch)?.fetch(connection);
        Rows::read(found, |row| read(&row).map(Some)).await
    }

    async fn beginnings(
        connection: &mut SqliteConnection,
        names: &Names,
        from: i64,
    ) -> Result<Vec<Beginning>, sqlx::Error> {
        let ask = "select stream, incarnation, min(first_sequence) from tidings_ledger
            where last_id >= ?1 and way not in ('copied', 'discarded') group by stream, incarnation order by stream, min(at)";
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
            "select first_id, last_id, events, stream, incarnation, first_sequence, last_sequence, way
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
                way: Way::parse(row.try_get(7)?),
            })
        });
        entries.collect()
    }
}

/// Which of these places the relay has not passed.
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

type Asked = sqlx::query::Query<'static, Sqlite, SqliteArguments>;

fn asked(names: &Names, ask: &'static str, stretch: &Stretch<'_>) -> Result<Asked, sqlx::Error> {
    let wanted = serde_json::to_string(&stretch.range.names)
        .map_err(|error| sqlx::Error::Encode(error.into()))?;
    Ok(sqlx::query(names.sql(ask, '_'))
        .bind(stretch.behind)
        .bind(stretch.passed.cursor.clone())
        .bind(stretch.range.since.map(|since| since.timestamp_micros()))
        .bind(i64::try_from(stretch.limit).unwrap_or(i64::MAX))
        .bind(stretch.range.until.map(|until| until.timestamp_micros()))
        .bind(stretch.range.last)
        .bind(wanted)
        .bind(stretch.range.key.clone()))
}

async fn with_payloads(
    connection: &mut SqliteConnection,
    names: &Names,
    stretch: &Stretch<'_>,
    hasher: &RandomState,
) -> Result<Vec<Relayed>, sqlx::Error> {
    let ask = relayed!("id, event, name, key, payload, version");
    let mut rows = asked(names, ask, stretch)?.fetch(connection);
    let mut relayed = Vec::new();
    while let Some(row) = rows.try_next().await? {
        let payload: &[u8] = row.try_get(4)?;
        relayed.push(Relayed {
            id: row.try_get(0)?,
            event: EventId::from(row.try_get::<Uuid, _>(1)?),
            name: row.try_get(2)?,
            version: row.try_get(5)?,
            key: row.try_get(3)?,
            bytes: payload.len(),
            payload: Some(hasher.hash_one(payload)),
        });
    }
    Ok(relayed)
}

/// A row as SQLite writes it: place, event, name, key, bytes, version.
type Outline<'a> = (i64, &'a str, String, Option<String>, usize, i64);

/// As one text: a row each is a way from the thread of the connection to this one.
async fn without_payloads(
    connection: &mut SqliteConnection,
    names: &Names,
    stretch: &Stretch<'_>,
) -> Result<Vec<Relayed>, sqlx::Error> {
    let ask = concat!(
        "select json_group_array(json_array(id, hex(event), name, key, bytes, version)) from (",
        relayed!("id, event, name, key, length(payload) as bytes, version"),
        ")"
    );
    let row = asked(names, ask, stretch)?.fetch_one(connection).await?;
    let rows: Vec<Outline<'_>> = serde_json::from_str(row.try_get(0)?).map_err(undecodable)?;
    let rows = rows
        .into_iter()
        .map(|(id, event, name, key, bytes, version)| {
            Ok(Relayed {
                id,
                event: EventId::from(Uuid::try_parse(event).map_err(undecodable)?),
                name,
                version,
                key,
                bytes,
                payload: None,
            })
        });
    rows.collect()
}

fn undecodable(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}
