//! Reads everything in the outbox on Postgres. Never writes.

use sqlx::{PgConnection, Postgres};

use super::{
    columns::{Statement, is_of_a_row, read, rows},
    turn::query,
};
use crate::outbox::{
    history::contents::Contents,
    store::{Names, Row, columns::LONGEST_PAYLOAD},
};

impl Contents for Postgres {
    async fn contents(
        connection: &mut PgConnection,
        names: &Names,
    ) -> Result<Vec<Row>, sqlx::Error> {
        const ALL: Statement = rows!(
            "67108864",
            "select id, created_at, event, name, version, key, headers, payload from tidings.outbox"
        );
        let [plain, checked] = ALL.ways();
        let rows = match query(names, plain).fetch_all(&mut *connection).await {
            Err(error) if is_of_a_row(&error) => query(names, checked).fetch_all(connection).await,
            rows => rows,
        };
        rows?.iter().map(|row| read(row, LONGEST_PAYLOAD)).collect()
    }
}
