//! The statements about streams that lost something. Never decides what a loss is.

use sqlx::{PgConnection, Postgres, Row as _};

use super::turn::{Turn, query};
use crate::outbox::{standing::LossKeeping, store::Names};

impl LossKeeping for Postgres {
    async fn losses(connection: &mut PgConnection, names: &Names) -> Result<String, sqlx::Error> {
        let mut turn = Turn::begin(connection, names).await?;
        let row = query(names, "select losses::text from tidings.relay")
            .fetch_one(&mut *turn)
            .await?;
        turn.end().await?;
        row.try_get(0)
    }

    async fn keep_losses(
        connection: &mut PgConnection,
        names: &Names,
        losses: &str,
    ) -> Result<(), sqlx::Error> {
        let keep = "update tidings.relay set losses = losses || $1::text::jsonb";
        let mut turn = Turn::begin(connection, names).await?;
        query(names, keep).bind(losses).execute(&mut *turn).await?;
        turn.end().await
    }
}
