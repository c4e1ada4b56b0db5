//! Reads everything in the outbox on SQLite. Never writes.

use sqlx::{Sqlite, SqliteConnection};

use super::columns::{read, rows};
use crate::outbox::{
    history::contents::Contents,
    store::{Names, Row, columns::LONGEST_PAYLOAD},
};

impl Contents for Sqlite {
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
