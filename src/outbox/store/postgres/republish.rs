//! The statements about republished rows. Never decides which rows.

use std::time::Duration;

use sqlx::{PgConnection, Postgres, Row as _, postgres::PgRow};

use super::{
    columns::{Statement, is_of_a_row, read, rows},
    statement_scope::{StatementScope, execute, query},
};
use crate::outbox::store::{
    Entry, Names, Rows, columns::LONGEST_PAYLOAD, republish::RepublishStatements, sequence,
};

impl RepublishStatements for Postgres {
    async fn claim_republish(
        connection: &mut PgConnection,
        names: &Names,
        republisher: &str,
        lease: Duration,
    ) -> Result<bool, sqlx::Error> {
        let claim_republish = "update tidings.relay
            set republisher = $1, republish_lease_until = clock_timestamp() + make_interval(secs => $2)
            where republisher = $1 or republisher is null or republish_lease_until < clock_timestamp()";
        let has = execute(
            connection,
            names,
            query(names, claim_republish)
                .bind(republisher)
                .bind(lease.as_secs_f64()),
        )
        .await?;
        Ok(has.rows_affected() == 1)
    }

    async fn release_republish(
        connection: &mut PgConnection,
        names: &Names,
        republisher: &str,
    ) -> Result<(), sqlx::Error> {
        let release_republish = "update tidings.relay set republisher = null, republish_lease_until = '-infinity' where republisher = $1";
        execute(
            connection,
            names,
            query(names, release_republish).bind(republisher),
        )
        .await
        .map(drop)
    }

    async fn record(
        connection: &mut PgConnection,
        names: &Names,
        entries: &[Entry],
    ) -> Result<(), sqlx::Error> {
        // Epoch 0, which no relay has.
        let record = "insert into tidings.ledger
                (epoch, first_id, last_id, events, stream, incarnation, first_sequence, last_sequence, kind)
            select 0, entry.*
            from unnest($1::bigint[], $2::bigint[], $3::int[], $4::text[], $5::text[], $6::bigint[],
                        $7::bigint[], $8::text[]) as entry";
        let column = |value: fn(&Entry) -> i64| entries.iter().map(value).collect::<Vec<i64>>();
        let events: Vec<i32> = entries.iter().map(|e| e.events).collect();
        let streams: Vec<&str> = entries.iter().map(|e| &*e.stream).collect();
        let incarnations: Vec<&str> = entries.iter().map(|e| &*e.incarnation).collect();
        let kinds: Vec<&str> = entries.iter().map(|e| e.kind.as_str()).collect();
        execute(
            connection,
            names,
            query(names, record)
                .bind(column(|e| e.first_id))
                .bind(column(|e| e.last_id))
                .bind(events)
                .bind(streams)
                .bind(incarnations)
                .bind(column(|e| sequence(e.first_sequence)))
                .bind(column(|e| sequence(e.last_sequence)))
                .bind(kinds),
        )
        .await
        .map(drop)
    }

    /// Where the row ids are close together, reads a range of the index: much faster than looking each of them up in
    /// every slot.
    async fn rows_at(
        connection: &mut PgConnection,
        names: &Names,
        ids: &[i64],
    ) -> Result<Rows, sqlx::Error> {
        let (Some(first), Some(last)) = (ids.first(), ids.last()) else {
            return Ok(Rows {
                rows: Vec::new(),
                are_cut: false,
            });
        };
        const CLOSE: Statement = rows!(
            "67108864",
            "select id, created_at, event, name, version, key, headers, payload from tidings.outbox
            where id >= $1 and id <= $2"
        );
        const APART: Statement = rows!(
            "67108864",
            "select id, created_at, event, name, version, key, headers, payload from tidings.outbox
            where id >= $1 and id <= $2 and id = any($3)"
        );
        let is_close =
            last.saturating_sub(*first) < 2 * i64::try_from(ids.len()).unwrap_or(i64::MAX / 2);
        let [plain, checked] = if is_close { CLOSE } else { APART }.variants();
        let among = (*first, *last, ids);
        match rows_of(connection, names, plain, (among, is_close)).await {
            Err(error) if is_of_a_row(&error) => {
                rows_of(connection, names, checked, (among, is_close)).await
            }
            rows => rows,
        }
    }
}

async fn rows_of(
    connection: &mut PgConnection,
    names: &Names,
    sql: &'static str,
    ((first, last, ids), is_close): ((i64, i64, &[i64]), bool),
) -> Result<Rows, sqlx::Error> {
    let mut scope = StatementScope::in_order(connection).await?;
    let asked = query(names, sql).bind(first).bind(last);
    let asked = if is_close { asked } else { asked.bind(ids) };
    let read = |row: PgRow| match ids.binary_search(&row.try_get(0)?) {
        Ok(_) => read(&row, LONGEST_PAYLOAD).map(Some),
        Err(_) => Ok(None),
    };
    let rows = Rows::read(asked.fetch(&mut *scope), read).await?;
    scope.end().await?;
    Ok(rows)
}
