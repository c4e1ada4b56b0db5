//! The statements about the NATS that the outbox is relayed into, and about the version of its tables. Never decides
//! whether this NATS is the right one.

use sqlx::{PgConnection, Postgres, Row as _};

use super::statement_scope::{execute, fetch_one, query};
use crate::outbox::store::{
    Names,
    home::{Home, HomeStatements},
    positions_from,
};

impl HomeStatements for Postgres {
    async fn version(
        connection: &mut PgConnection,
        names: &Names,
    ) -> Result<Option<i32>, sqlx::Error> {
        const INSUFFICIENT_PRIVILEGE: &str = "42501";
        let version = query(names, "select max(version) from tidings.migration");
        match fetch_one(connection, names, version).await {
            Ok(row) => row.try_get(0),
            Err(sqlx::Error::Database(error))
                if error.code().as_deref() == Some(INSUFFICIENT_PRIVILEGE) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn home(connection: &mut PgConnection, names: &Names) -> Result<Home, sqlx::Error> {
        let home = "select nats::text, streams::text from tidings.relay";
        let row = fetch_one(connection, names, query(names, home)).await?;
        let streams = positions_from(&row.try_get::<String, _>(1)?)?;
        Home::of(row.try_get(0)?, streams)
    }

    async fn store_home(
        connection: &mut PgConnection,
        names: &Names,
        nats: &str,
    ) -> Result<(), sqlx::Error> {
        let keep = "update tidings.relay set nats = $1::text::jsonb";
        execute(connection, names, query(names, keep).bind(nats))
            .await
            .map(drop)
    }
}
