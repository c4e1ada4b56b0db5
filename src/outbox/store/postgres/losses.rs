//! The statements about streams that have lost events. Never decides what a loss is.

use sqlx::{PgConnection, Postgres, Row as _};

use super::statement_scope::{execute, fetch_one, query};
use crate::outbox::store::{Names, losses::LossStatements};

impl LossStatements for Postgres {
    async fn losses(connection: &mut PgConnection, names: &Names) -> Result<String, sqlx::Error> {
        let row = fetch_one(
            connection,
            names,
            query(names, "select losses::text from tidings.relay"),
        )
        .await?;
        row.try_get(0)
    }

    async fn store_losses(
        connection: &mut PgConnection,
        names: &Names,
        losses: &str,
    ) -> Result<(), sqlx::Error> {
        let keep = "update tidings.relay set losses = losses || $1::text::jsonb";
        execute(connection, names, query(names, keep).bind(losses))
            .await
            .map(drop)
    }
}
