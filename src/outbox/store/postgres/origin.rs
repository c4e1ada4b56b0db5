//! Distinguishes a database from its copy. A server has a system identifier since its initdb, and a database an oid
//! within it; a dump carries neither, a file copy both.

use sqlx::{PgConnection, Row as _};

use super::statement_scope::{fetch_one, query_of};
use crate::outbox::store::{Names, origin::Origin};

/// The server and the database, as `tidings.relay.system` stores them. Every role may call the function.
pub(super) const SYSTEM: &str = "(select control.system_identifier || '/' || here.oid
    from pg_control_system() as control, pg_database as here where here.datname = current_database())";

/// The cursor's xmax may be equal to this database's own: both are the successor of the last transaction that has
/// ended. A higher one means transactions that this database has not had.
pub(super) async fn origin(
    connection: &mut PgConnection,
    names: &Names,
) -> Result<Origin, sqlx::Error> {
    let ask = format!(
        "select pg_is_in_recovery(), relay.system, {SYSTEM},
            pg_snapshot_xmax(coalesce(page_snapshot, cursor))::text,
            pg_snapshot_xmax(pg_current_snapshot())::text,
            pg_snapshot_xmax(coalesce(page_snapshot, cursor)) > pg_snapshot_xmax(pg_current_snapshot())
        from tidings.relay as relay"
    );
    // Safe: constants and a checked identifier.
    let ask = sqlx::AssertSqlSafe(names.text(&ask, '.'));
    let row = fetch_one(connection, names, query_of(names, ask)).await?;
    let (was, is): (String, String) = (row.try_get(1)?, row.try_get(2)?);
    if row.try_get(0)? {
        return Ok(Origin::Standby);
    }
    if was != is {
        return Ok(Origin::Foreign(format!(
            "the outbox is a copy: its relay ran in the database {was}, and this one is {is}"
        )));
    }
    if row.try_get(5)? {
        let (cursor, here): (String, String) = (row.try_get(3)?, row.try_get(4)?);
        return Ok(Origin::Foreign(format!(
            "the outbox is a copy: its relay has reached transaction {cursor}, and this database has reached {here}"
        )));
    }
    Ok(Origin::Own)
}
