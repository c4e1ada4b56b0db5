//! Everything in the outbox on Postgres. Never writes.

use sqlx::{PgConnection, Postgres};

use super::{fetch::read, turn::query};
use crate::outbox::{
    contents::Contents,
    store::{Names, Row},
};

impl Contents for Postgres {
    async fn contents(
        connection: &mut PgConnection,
        names: &Names,
    ) -> Result<Vec<Row>, sqlx::Error> {
        let all = "select id, at, event, name, version, key, headers, payload from tidings.outbox
            order by id";
        let rows = query(names, all).fetch_all(connection).await?;
        rows.iter().map(read).collect()
    }
}
