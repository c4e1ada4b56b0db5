//! Whether the disk of the server has room. Leaves nothing there.

use sqlx::PgConnection;

use super::statement_scope::{execute, query};
use crate::outbox::store::Names;

/// Fails when the server cannot write a temporary file of some 200 kB, which it removes at the end of the statement. It
/// touches no table and no catalog, so a role that may only read can do it.
///
/// A server without room goes on answering: a relay that has nothing to write does not notice, while every new event is
/// refused.
pub(super) async fn has_room(
    connection: &mut PgConnection,
    names: &Names,
) -> Result<(), sqlx::Error> {
    let spill = "select count(*)
        from (select set_config('work_mem', '64kB', true)) as own (memory),
             lateral generate_series(1, length(own.memory) * 4000)";
    let spill = query(names, spill);
    execute(connection, names, spill).await.map(drop)
}
