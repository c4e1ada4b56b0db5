//! The statements about streams that have lost events. Never decides what a loss is.

use sqlx::{Row as _, Sqlite, SqliteConnection};

use crate::outbox::store::{Names, losses::LossStatements};

impl LossStatements for Sqlite {
    async fn losses(
        connection: &mut SqliteConnection,
        names: &Names,
    ) -> Result<String, sqlx::Error> {
        let losses = names.sql("select losses from tidings_relay", '_');
        sqlx::query(losses).fetch_one(connection).await?.try_get(0)
    }

    async fn store_losses(
        connection: &mut SqliteConnection,
        names: &Names,
        losses: &str,
    ) -> Result<(), sqlx::Error> {
        // A JSON patch keeps what it leaves out, and removes what it sets to null: so the stored losses of these
        // streams are removed first.
        let keep = "update tidings_relay set losses = json_patch(
            json_patch(losses, (select json_group_object(key, null) from json_each(?1))), ?1)";
        sqlx::query(names.sql(keep, '_'))
            .bind(losses)
            .execute(connection)
            .await
            .map(drop)
    }
}
