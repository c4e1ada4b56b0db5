//! What the server does for this user. Never ends any of it.

use sqlx::{PgConnection, Row as _};

use crate::outbox::{link::Session, store::Names};

/// One message, which is one round trip, and one transaction behind a pooler. A server that does not track what its
/// processes do may be at work.
pub(super) async fn sessions(
    connection: &mut PgConnection,
    names: &Names,
) -> Result<Vec<Session>, sqlx::Error> {
    let sessions = format!(
        "select pid, coalesce(state not like 'idle%', true),
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
            is_running: row.try_get(1)?,
            is_ours: row.try_get(2)?,
        })
    });
    session.collect()
}
