//! The statements about the NATS that the outbox is relayed into, and about the version of its tables. Never decides
//! whether it is the right one.

use sqlx::{PgConnection, Postgres, Row as _};

use super::turn::{Turn, query};
use crate::outbox::{
    home::{Home, HomeKeeping},
    store::{Names, positions_from},
};

impl HomeKeeping for Postgres {
    async fn version(
        connection: &mut PgConnection,
        names: &Names,
    ) -> Result<Option<i32>, sqlx::Error> {
        const INSUFFICIENT_PRIVILEGE: &str = "42501";
        let mut turn = Turn::begin(connection, names).await?;
        let found = query(names, "select max(version) from tidings.migration")
            .fetch_one(&mut *turn)
            .await;
        let row = match found {
            Ok(row) => row,
            Err(sqlx::Error::Database(error))
                if error.code().as_deref() == Some(INSUFFICIENT_PRIVILEGE) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        turn.end().await?;
        row.try_get(0)
    }

    async fn home(connection: &mut PgConnection, names: &Names) -> Result<Home, sqlx::Error> {
        let home = "select nats::text, streams::text from tidings.relay";
        let mut turn = Turn::begin(connection, names).await?;
        let row = query(names, home).fetch_one(&mut *turn).await?;
        turn.end().await?;
        let streams = positions_from(&row.try_get::<String, _>(1)?)?;
        Home::of(row.try_get(0)?, streams)
    }

    async fn keep_home(
        connection: &mut PgConnection,
        names: &Names,
        nats: &str,
    ) -> Result<(), sqlx::Error> {
        let keep = "update tidings.relay set nats = $1::text::jsonb";
        let mut turn = Turn::begin(connection, names).await?;
        query(names, keep).bind(nats).execute(&mut *turn).await?;
        turn.end().await
    }
}
