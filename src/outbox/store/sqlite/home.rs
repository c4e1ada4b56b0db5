//! The statements about the NATS that the outbox is relayed into, and about the version of its tables. Never decides
//! whether this NATS is the right one.

use sqlx::{Row as _, Sqlite, SqliteConnection};

use crate::outbox::store::{
    Names,
    home::{Home, HomeStatements},
    positions_from,
};

impl HomeStatements for Sqlite {
    async fn version(
        connection: &mut SqliteConnection,
        names: &Names,
    ) -> Result<Option<i32>, sqlx::Error> {
        let version = names.sql("select max(version) from tidings_migration", '_');
        sqlx::query(version).fetch_one(connection).await?.try_get(0)
    }

    async fn home(connection: &mut SqliteConnection, names: &Names) -> Result<Home, sqlx::Error> {
        let home = names.sql("select nats, streams from tidings_relay", '_');
        let row = sqlx::query(home).fetch_one(connection).await?;
        let streams = positions_from(&row.try_get::<String, _>(1)?)?;
        Home::of(row.try_get(0)?, streams)
    }

    async fn store_home(
        connection: &mut SqliteConnection,
        names: &Names,
        nats: &str,
    ) -> Result<(), sqlx::Error> {
        let keep = names.sql("update tidings_relay set nats = ?1", '_');
        sqlx::query(keep)
            .bind(nats)
            .execute(connection)
            .await
            .map(drop)
    }
}
