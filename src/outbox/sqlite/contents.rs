//! Everything in the outbox on SQLite. Never writes.

use sqlx::{Sqlite, SqliteConnection};

use super::read;
use crate::outbox::{
    contents::Contents,
    store::{Names, Row},
};

impl Contents for Sqlite {
    async fn contents(
        connection: &mut SqliteConnection,
        names: &Names,
    ) -> Result<Vec<Row>, sqlx::Error> {
        let all = "select id, at, event, name, version, key, headers, payload from tidings_outbox
            order by id";
        let rows = sqlx::query(names.sql(all, '_'))
            .fetch_all(connection)
            .await?;
        rows.iter().map(read).collect()
    }
}
