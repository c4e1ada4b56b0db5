//! Writes events to the log on Postgres, and reads all of it. Never looks at what the relay does with it.

use sqlx::{PgConnection, Postgres};
use tidings_contract::{Envelope, wire};
use uuid::Uuid;

use super::{
    columns::{Statement, is_of_a_row, read, rows},
    statement_scope::query,
    version_of,
};
use crate::outbox::store::{Names, Row, columns::LONGEST_PAYLOAD, log::LogStatements};

impl LogStatements for Postgres {
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
        query(names, insert)
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

    async fn contents(
        connection: &mut PgConnection,
        names: &Names,
    ) -> Result<Vec<Row>, sqlx::Error> {
        const ALL: Statement = rows!(
            "67108864",
            "select id, created_at, event, name, version, key, headers, payload from tidings.outbox"
        );
        let [plain, checked] = ALL.variants();
        let rows = match query(names, plain).fetch_all(&mut *connection).await {
            Err(error) if is_of_a_row(&error) => query(names, checked).fetch_all(connection).await,
            rows => rows,
        };
        rows?.iter().map(|row| read(row, LONGEST_PAYLOAD)).collect()
    }
}

async fn insert_one(
    connection: &mut PgConnection,
    names: &Names,
    envelope: &Envelope,
) -> Result<(), sqlx::Error> {
    let insert = "insert into tidings.outbox (event, name, version, key, headers, payload)
        values ($1, $2, $3, $4, $5, $6)";
    query(names, insert)
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
