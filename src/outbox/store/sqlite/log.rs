//! Writes events to the log on SQLite, and reads all of it. Never looks at what the relay does with it.

use sqlx::{Sqlite, SqliteConnection};
use tidings_contract::{Envelope, wire};

use super::columns::{read, rows};
use crate::outbox::store::{Names, Row, columns::LONGEST_PAYLOAD, log::LogStatements};

impl LogStatements for Sqlite {
    async fn insert(
        connection: &mut SqliteConnection,
        names: &Names,
        envelopes: &[Envelope],
    ) -> Result<(), sqlx::Error> {
        let insert = "insert into tidings_outbox (event, name, version, key, headers, payload)
            values (?, ?, ?, ?, ?, ?)";
        for envelope in envelopes {
            sqlx::query(names.sql(insert, '_'))
                .bind(envelope.id().as_uuid())
                .bind(envelope.name().as_str())
                .bind(i64::from(envelope.version()))
                .bind(envelope.key())
                .bind(wire::stored_headers(envelope))
                .bind(envelope.payload().as_ref())
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }

    async fn contents(
        connection: &mut SqliteConnection,
        names: &Names,
    ) -> Result<Vec<Row>, sqlx::Error> {
        let all = rows!("67108864", "from tidings_outbox order by id");
        let rows = sqlx::query(names.sql(all, '_'))
            .fetch_all(connection)
            .await?;
        rows.iter().map(|row| read(row, LONGEST_PAYLOAD)).collect()
    }
}
