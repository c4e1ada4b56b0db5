//! The one lock of the file: how long to wait for it, and the message after a timeout.

use std::time::Duration;

use sqlx::{Row as _, SqliteConnection};

use crate::outbox::store::Names;

/// Sets how long the connection waits for another writer.
pub(super) async fn bound(
    connection: &mut SqliteConnection,
    wait: Duration,
) -> Result<(), sqlx::Error> {
    let wait = wait.as_millis().clamp(1, 2_147_483_647);
    // Safe: a constant and a number.
    let set = sqlx::AssertSqlSafe(format!("pragma busy_timeout = {wait}"));
    sqlx::raw_sql(set).execute(connection).await.map(drop)
}

pub(super) fn is_locked_out(error: &sqlx::Error) -> bool {
    const BUSY: i32 = 5;
    const LOCKED: i32 = 6;
    let code = error.as_database_error().and_then(|error| error.code());
    let code = code.and_then(|code| code.parse::<i32>().ok());
    code.is_some_and(|code| [BUSY, LOCKED].contains(&(code & 0xff)))
}

/// SQLite does not know the holder, so the message names the file.
pub(super) async fn locked_by(
    connection: &mut SqliteConnection,
    names: &Names,
) -> Result<String, sqlx::Error> {
    let file = "select file from pragma_database_list where name = 'main'";
    let row = sqlx::query(names.sql(file, '_'))
        .fetch_one(connection)
        .await?;
    let file: String = row.try_get(0)?;
    Ok(format!(
        "the outbox is locked: another process, or another connection of this one, has the write lock of {file}"
    ))
}
