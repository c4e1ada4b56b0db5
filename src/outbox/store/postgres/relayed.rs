//! The statements about past events: the rows that the relay has passed, and the ledger. Never writes.

use std::{collections::HashSet, hash::BuildHasher};

use futures::TryStreamExt;
use sqlx::{PgConnection, Postgres, Row as _, postgres::PgArguments};

use super::{
    PgCursor,
    columns::{Statement, bytes, is_of_a_row, read, rows, shown},
    statement_scope::{StatementScope, fetch_all, fetch_one, query},
};
use crate::outbox::store::{
    Entry, Names, Rows,
    columns::{LONGEST_PAYLOAD, event_or_nil},
    ledger::{Beginning, LedgerKind, LedgerStatements, Passed, PassedQuery, Relayed},
    positions_from, unsigned,
};

/// The rows of a [`PassedQuery`].
macro_rules! relayed {
    ($columns:literal) => {
        concat!(
            "select ",
            $columns,
            " from tidings.outbox as log
            where id > $1
              and (pg_visible_in_snapshot(xid, $2::text::pg_snapshot)
                   or coalesce(id <= $10 and pg_visible_in_snapshot(xid, $9::text::pg_snapshot), false))
              and ($3::timestamptz is null or created_at >= $3)
              and ($5::timestamptz is null or created_at <= $5) and id <= $6
              and (cardinality($7::text[]) = 0 or name = any($7)) and ($8::text is null or key = $8)
              and not exists (select from tidings.parked as parked where parked.id = log.id)
            order by id limit $4"
        )
    };
}

/// The columns that distinguish rows, cut to the limits of a page.
macro_rules! outlines {
    ($name:literal, $key:literal) => {
        concat!(
            "select id, event, ", $name, ", case when key is not null then ", $key, " end, bytes, payload, version from (",
            relayed!(
                "id, event, case when octet_length(name) <= 1000 then name else left(name, 300) end as name,
                case when octet_length(key) <= 1000 then key else left(key, 300) end as key,
                octet_length(payload) as bytes,
                case when $11 and octet_length(payload) <= 67108864 then payload end as payload, version"
            ),
            ") as outline order by id"
        )
    };
}

impl LedgerStatements for Postgres {
    async fn passed(connection: &mut PgConnection, names: &Names) -> Result<Passed, sqlx::Error> {
        let ask =
            "select cursor::text, streams::text, page_snapshot::text, page_id from tidings.relay";
        let row = fetch_one(connection, names, query(names, ask)).await?;
        let page: (Option<String>, Option<i64>) = (row.try_get(2)?, row.try_get(3)?);
        Ok(Passed {
            cursor: row.try_get(0)?,
            page: page.0.zip(page.1),
            streams: positions_from(row.try_get(1)?)?,
        })
    }

    async fn parked_ids(
        connection: &mut PgConnection,
        names: &Names,
        ids: &[i64],
    ) -> Result<HashSet<i64>, sqlx::Error> {
        let ask = "select id from tidings.parked where id = any($1)
            union all
            select last_id from tidings.ledger where last_id = any($1) and kind = 'discarded'";
        let rows = fetch_all(connection, names, query(names, ask).bind(ids)).await?;
        rows.iter().map(|row| row.try_get(0)).collect()
    }

    async fn relayed(
        connection: &mut PgConnection,
        names: &Names,
        selection: &PassedQuery<'_>,
    ) -> Result<Vec<Relayed>, sqlx::Error> {
        let [plain, checked] = OUTLINES.variants();
        match outlines(connection, names, selection, plain).await {
            Err(error) if is_of_a_row(&error) => {
                outlines(connection, names, selection, checked).await
            }
            outlines => outlines,
        }
    }

    async fn relayed_rows(
        connection: &mut PgConnection,
        names: &Names,
        selection: &PassedQuery<'_>,
    ) -> Result<Rows, sqlx::Error> {
        const WHOLE: Statement = rows!(
            "67108864",
            relayed!("id, created_at, event, name, version, key, headers, payload")
        );
        let [plain, checked] = WHOLE.variants();
        match whole(connection, names, selection, plain).await {
            Err(error) if is_of_a_row(&error) => whole(connection, names, selection, checked).await,
            rows => rows,
        }
    }

    async fn beginnings(
        connection: &mut PgConnection,
        names: &Names,
        from: i64,
    ) -> Result<Vec<Beginning>, sqlx::Error> {
        let ask = "select stream, incarnation, min(first_sequence) from tidings.ledger
            where last_id >= $1 and kind not in ('copied', 'discarded') group by stream, incarnation order by stream, min(created_at)";
        let rows = fetch_all(connection, names, query(names, ask).bind(from)).await?;
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
        connection: &mut PgConnection,
        names: &Names,
        behind: i64,
        limit: usize,
    ) -> Result<Vec<Entry>, sqlx::Error> {
        let ask =
            "select first_id, last_id, events, stream, incarnation, first_sequence, last_sequence, kind
            from tidings.ledger where last_id > $1 order by last_id limit $2";
        let rows = fetch_all(
            connection,
            names,
            query(names, ask)
                .bind(behind)
                .bind(i64::try_from(limit).unwrap_or(i64::MAX)),
        )
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
    connection: &mut PgConnection,
    names: &Names,
    cursor: &PgCursor,
    ids: &[i64],
) -> Result<HashSet<i64>, sqlx::Error> {
    let ask = "select id from tidings.outbox
        where id = any($1) and not pg_visible_in_snapshot(xid, $2::text::pg_snapshot)
          and not coalesce(id <= $4 and pg_visible_in_snapshot(xid, $3::text::pg_snapshot), false)";
    let page = cursor.page.as_ref();
    let rows = fetch_all(
        connection,
        names,
        query(names, ask)
            .bind(ids)
            .bind(&cursor.seen)
            .bind(page.map(|page| &page.snapshot))
            .bind(page.map(|page| page.last_id)),
    )
    .await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

type BoundQuery<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

fn asked<'q>(names: &Names, ask: &'static str, selection: &'q PassedQuery<'_>) -> BoundQuery<'q> {
    let page = selection.passed.page.as_ref();
    query(names, ask)
        .bind(selection.behind)
        .bind(&selection.passed.cursor)
        .bind(selection.range.since)
        .bind(i64::try_from(selection.limit).unwrap_or(i64::MAX))
        .bind(selection.range.until)
        .bind(selection.range.last)
        .bind(&selection.range.names)
        .bind(&selection.range.key)
        .bind(page.map(|(snapshot, _)| snapshot))
        .bind(page.map(|(_, id)| id))
}

/// The outlines of rows, in the two variants of `rows!`.
const OUTLINES: Statement = Statement {
    plain: outlines!("name", "key"),
    checked: outlines!(
        "coalesce(tidings.utf8(name), decode('ff', 'hex'))",
        "coalesce(tidings.utf8(key), decode('ff', 'hex'))"
    ),
};

async fn outlines(
    connection: &mut PgConnection,
    names: &Names,
    selection: &PassedQuery<'_>,
    sql: &'static str,
) -> Result<Vec<Relayed>, sqlx::Error> {
    let asked = asked(names, sql, selection).bind(selection.payloads.is_some());
    let mut scope = StatementScope::in_order(connection).await?;
    let mut relayed = Vec::new();
    {
        let mut rows = asked.fetch(&mut *scope);
        while let Some(row) = rows.try_next().await? {
            let hasher = selection.payloads.zip(bytes(&row, 5)?);
            relayed.push(Relayed {
                id: row.try_get(0)?,
                event: event_or_nil(bytes(&row, 1)?),
                name: shown(&row, 2)?.unwrap_or_default(),
                version: row.try_get::<i32, _>(6)?.into(),
                key: shown(&row, 3)?,
                bytes: usize::try_from(row.try_get::<i32, _>(4)?).unwrap_or(0),
                payload: hasher.map(|(hasher, payload)| hasher.hash_one(payload)),
            });
        }
    }
    scope.end().await?;
    Ok(relayed)
}

async fn whole(
    connection: &mut PgConnection,
    names: &Names,
    selection: &PassedQuery<'_>,
    sql: &'static str,
) -> Result<Rows, sqlx::Error> {
    let mut scope = StatementScope::in_order(connection).await?;
    let found = asked(names, sql, selection).fetch(&mut *scope);
    let rows = Rows::read(found, |row| read(&row, LONGEST_PAYLOAD).map(Some)).await?;
    scope.end().await?;
    Ok(rows)
}
