//! The statements that look back: what the relay has passed, and what the ledger says of it. Never writes.

use std::{collections::HashSet, hash::BuildHasher};

use futures::TryStreamExt;
use sqlx::{Row as _, Sqlite, SqliteConnection};
use tidings_contract::EventId;
use uuid::Uuid;

use crate::outbox::{
    mend::Way,
    relayed::{Archive, Beginning, Passed, Relayed, Stretch},
    store::{Entry, Names, positions_from, unsigned},
};

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
        let ask = "select id from tidings_parked where id in (select value from json_each(?1))";
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
        let ask = "select id, event, name, key, length(payload), case when ?5 then payload end
            from tidings_outbox as log
            where id > ?1 and id <= cast(?2 as integer) and (?3 is null or at >= ?3)
              and (?6 is null or at <= ?6) and id <= ?7
              and (?8 = '[]' or name in (select value from json_each(?8))) and (?9 is null or key = ?9)
              and not exists (select 1 from tidings_parked as parked where parked.id = log.id)
            order by id limit ?4";
        let wanted = serde_json::to_string(&stretch.range.names)
            .map_err(|error| sqlx::Error::Encode(error.into()))?;
        let mut relayed = Vec::new();
        {
            let mut rows = sqlx::query(names.sql(ask, '_'))
                .bind(stretch.behind)
                .bind(&stretch.passed.cursor)
                .bind(stretch.range.since.map(|since| since.timestamp_micros()))
                .bind(i64::try_from(stretch.limit).unwrap_or(i64::MAX))
                .bind(stretch.payloads.is_some())
                .bind(stretch.range.until.map(|until| until.timestamp_micros()))
                .bind(stretch.range.last)
                .bind(wanted)
                .bind(&stretch.range.key)
                .fetch(&mut *connection);
            while let Some(row) = rows.try_next().await? {
                let payload: Option<&[u8]> = row.try_get(5)?;
                let hasher = stretch.payloads.zip(payload);
                relayed.push(Relayed {
                    id: row.try_get(0)?,
                    event: EventId::from(row.try_get::<Uuid, _>(1)?),
                    name: row.try_get(2)?,
                    key: row.try_get(3)?,
                    bytes: usize::try_from(row.try_get::<i64, _>(4)?).unwrap_or(0),
                    payload: hasher.map(|(hasher, payload)| hasher.hash_one(payload)),
                });
            }
        }
        Ok(relayed)
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
