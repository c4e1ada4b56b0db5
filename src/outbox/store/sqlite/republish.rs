//! The statements about republished rows. Never decides which rows.

use std::time::Duration;

use sqlx::{Connection as _, Sqlite, SqliteConnection};

use super::{
    columns::{read, rows},
    micros,
};
use crate::outbox::store::{
    Entry, Names, Rows, columns::LONGEST_PAYLOAD, republish::RepublishStatements, sequence,
};

impl RepublishStatements for Sqlite {
    async fn claim_republish(
        connection: &mut SqliteConnection,
        names: &Names,
        republisher: &str,
        lease: Duration,
    ) -> Result<bool, sqlx::Error> {
        let claim_republish = "update tidings_relay
            set republisher = ?1, republish_lease_until = cast(unixepoch('subsec') * 1000000 as integer) + ?2
            where republisher = ?1 or republisher is null
               or republish_lease_until < cast(unixepoch('subsec') * 1000000 as integer)";
        let has = sqlx::query(names.sql(claim_republish, '_'))
            .bind(republisher)
            .bind(micros(lease))
            .execute(connection)
            .await?;
        Ok(has.rows_affected() == 1)
    }

    async fn release_republish(
        connection: &mut SqliteConnection,
        names: &Names,
        republisher: &str,
    ) -> Result<(), sqlx::Error> {
        let release_republish = "update tidings_relay set republisher = null, republish_lease_until = 0 where republisher = ?1";
        sqlx::query(names.sql(release_republish, '_'))
            .bind(republisher)
            .execute(connection)
            .await
            .map(drop)
    }

    async fn record(
        connection: &mut SqliteConnection,
        names: &Names,
        entries: &[Entry],
    ) -> Result<(), sqlx::Error> {
        // Epoch 0, which no relay has.
        let record = "insert into tidings_ledger
                (epoch, first_id, last_id, events, stream, incarnation, first_sequence, last_sequence, kind)
            values (0, ?, ?, ?, ?, ?, ?, ?, ?)";
        let mut tx = connection.begin().await?;
        for entry in entries {
            sqlx::query(names.sql(record, '_'))
                .bind(entry.first_id)
                .bind(entry.last_id)
                .bind(entry.events)
                .bind(&entry.stream)
                .bind(&entry.incarnation)
                .bind(sequence(entry.first_sequence))
                .bind(sequence(entry.last_sequence))
                .bind(entry.kind.as_str())
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await
    }

    async fn rows_at(
        connection: &mut SqliteConnection,
        names: &Names,
        ids: &[i64],
    ) -> Result<Rows, sqlx::Error> {
        let ask = rows!(
            "67108864",
            "from tidings_outbox where id in (select value from json_each(?1)) order by id"
        );
        let ids = serde_json::to_string(ids).map_err(|error| sqlx::Error::Encode(error.into()))?;
        let found = sqlx::query(names.sql(ask, '_')).bind(ids).fetch(connection);
        Rows::read(found, |row| read(&row, LONGEST_PAYLOAD).map(Some)).await
    }
}
