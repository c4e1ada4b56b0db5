//! How long a slot of the log is written to. Never frees a slot.

use std::time::Duration;

use sqlx::{PgConnection, Row as _};

use super::statement_scope::{begin, fetch_one, query};
use crate::outbox::store::Names;

/// Six slots must cover the retention: of the eight, one is written to, and one is about to be.
const KEEPING: u64 = 6;
/// Shorter slots could pass unnoticed between two reclaims.
const SHORTEST: i64 = 300;

/// How long a slot of the log is written to, in seconds.
pub(super) async fn seconds(
    connection: &mut PgConnection,
    names: &Names,
) -> Result<i64, sqlx::Error> {
    let seconds = fetch_one(
        connection,
        names,
        query(names, "select slot_seconds from tidings.relay"),
    )
    .await?;
    Ok(i64::from(seconds.try_get::<i32, _>(0)?))
}

/// Changes how long slots are written to when the retention requires it. Returns the new length, and, when this role
/// lacks the right, what the tables' owner has to run.
pub(super) async fn fit(
    connection: &mut PgConnection,
    names: &Names,
    retention: Duration,
) -> Result<(i64, Option<String>), sqlx::Error> {
    const INSUFFICIENT_PRIVILEGE: &str = "42501";
    let seconds = seconds(connection, names).await?;
    let Some(wanted) = wanted(retention, seconds) else {
        return Ok((seconds, None));
    };
    let change = format!(
        "alter table only tidings.outbox alter column slot
            set default ((date_part('epoch', clock_timestamp())::bigint / {wanted}) % 8)::smallint;
        update tidings.relay set slot_seconds = {wanted}"
    );
    let change = names.text(&change, '.');
    let mut tx = begin(connection).await?;
    // Safe: constants, a number and a checked identifier. Short timeout: producers queue behind this lock.
    let changing = sqlx::AssertSqlSafe(format!("set local lock_timeout = '20ms'; {change}"));
    let changed = sqlx::raw_sql(changing).execute(&mut *tx).await;
    let Err(error) = changed else {
        tx.commit().await?;
        tracing::info!(
            was = seconds,
            is = wanted,
            "slot duration changed: the slots fit the retention"
        );
        return Ok((wanted, None));
    };
    tx.rollback().await?;
    if is_in_use(&error) {
        return Ok((seconds, None));
    }
    let code = error.as_database_error().and_then(|error| error.code());
    if code.is_some_and(|code| code == INSUFFICIENT_PRIVILEGE) {
        let change = change.split_whitespace().collect::<Vec<_>>().join(" ");
        return Ok((seconds, Some(format!("run as the tables' owner: {change}"))));
    }
    Err(error)
}

/// Whether a statement failed because it did not get a lock in time.
pub(super) fn is_in_use(error: &sqlx::Error) -> bool {
    const LOCK_NOT_AVAILABLE: &str = "55P03";
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == LOCK_NOT_AVAILABLE)
}

/// Returns another length, when the ring cannot keep the retention at present, or keeps far more.
fn wanted(retention: Duration, seconds: i64) -> Option<i64> {
    let needed = i32::try_from(retention.as_secs().div_ceil(KEEPING)).unwrap_or(i32::MAX);
    let needed = i64::from(needed).max(SHORTEST);
    (seconds < needed || seconds > needed * 2).then_some(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_change_only_when_the_retention_requires_it() {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        assert_eq!(wanted(hours(18), 10_800), None);
        assert_eq!(wanted(hours(12), 10_800), None);
        assert_eq!(wanted(hours(19), 10_800), Some(11_400));
        assert_eq!(wanted(hours(168), 10_800), Some(100_800));
        assert_eq!(wanted(hours(6), 10_800), Some(3600));
        assert_eq!(wanted(Duration::ZERO, 10_800), Some(SHORTEST));
        assert_eq!(wanted(Duration::MAX, 10_800), Some(i64::from(i32::MAX)));
    }
}
