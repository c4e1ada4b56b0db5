//! What the server does for this user. Never ends anything except an abandoned transaction of the outbox.

use sqlx::{PgConnection, Row as _};

use crate::outbox::store::{
    Names,
    sessions::{Backend, Session},
};

/// When a transaction began, in microseconds.
const BEGAN: &str = "(extract(epoch from xact_start) * 1000000)::bigint";

/// One message: one round trip, and one transaction behind a pooler. A server process counts as running when the server
/// does not track activities.
pub(super) async fn sessions(
    connection: &mut PgConnection,
    names: &Names,
) -> Result<Vec<Session>, sqlx::Error> {
    let sessions = format!(
        "select pid, {BEGAN}, coalesce(state not like 'idle%', true),
            coalesce(query like '%{}.%' or query like '%tidings\\_inbox%' or lower(query) in ('begin', 'commit'), true)
        from pg_stat_activity
        where datname = current_database() and usename = current_user and pid <> pg_backend_pid()",
        names.schema().replace('_', "\\_")
    );
    // Safe: constants and a checked identifier.
    let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(sessions))
        .fetch_all(connection)
        .await?;
    let session = rows.iter().map(|row| {
        Ok(Session {
            pid: row.try_get(0)?,
            began: row.try_get(1)?,
            is_running: row.try_get(2)?,
            is_ours: row.try_get(3)?,
        })
    });
    session.collect()
}

/// Does nothing when the transaction has ended, or when the process has another one by now. Returns whether it was
/// running a statement.
pub(super) async fn end_session(
    connection: &mut PgConnection,
    Backend { pid, began }: Backend,
) -> Result<bool, sqlx::Error> {
    let end = format!(
        "select state = 'active', pg_terminate_backend(pid) from pg_stat_activity
        where pid = {pid} and {BEGAN} = {began}"
    );
    // Safe: constants and numbers.
    let end = sqlx::raw_sql(sqlx::AssertSqlSafe(end));
    let ended = end.fetch_optional(connection).await?;
    ended.map_or(Ok(false), |row| row.try_get(0))
}
