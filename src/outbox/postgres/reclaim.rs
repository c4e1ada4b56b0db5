//! Emptying the ring: old slots are truncated, which leaves nothing for vacuum. Never touches a slot that
//! may still be written to, or that holds a row which the relay has not carried away.

use std::time::Duration;

use sqlx::{PgConnection, Row as _};

use super::fetch::PgCursor;
use crate::outbox::store::Names;

/// The slots of the ring, and how long one is written to.
const SLOTS: i64 = 8;
const SLOT_SECONDS: i64 = 10_800;
/// Truncates one slot, if one may be: neither written to now nor next, its newest row older than
/// the retention, all of it behind the cursor. The last is asked under the lock, because a writer
/// that was late may have added a row.
pub(super) async fn oldest_slot(
    connection: &mut PgConnection,
    names: &Names,
    cursor: &PgCursor,
    retention: Duration,
) -> Result<Option<String>, sqlx::Error> {
    if cursor.page.is_some() {
        return Ok(None);
    }
    let now: f64 = sqlx::query("select date_part('epoch', clock_timestamp())")
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    for slot in reclaimable_slots(now) {
        if reclaim_slot(connection, names, cursor, slot, retention).await? {
            return Ok(Some(format!("slot {slot}")));
        }
    }
    Ok(None)
}

/// The slots that are neither written to at `now` nor next, oldest first.
fn reclaimable_slots(now: f64) -> impl Iterator<Item = i64> {
    #[allow(clippy::cast_possible_truncation)] // seconds since 1970
    let current = now as i64 / SLOT_SECONDS;
    (2..SLOTS).map(move |ahead| (current + ahead) % SLOTS)
}

async fn reclaim_slot(
    connection: &mut PgConnection,
    names: &Names,
    cursor: &PgCursor,
    slot: i64,
    retention: Duration,
) -> Result<bool, sqlx::Error> {
    use sqlx::Connection;

    let of_slot = |text: &str| {
        let text = text.replace("tidings.outbox_", &format!("tidings.outbox_{slot}"));
        // Safe: a number and a checked identifier.
        sqlx::AssertSqlSafe(names.text(&text, '.'))
    };
    let is_old = of_slot(
        "select at < clock_timestamp() - make_interval(secs => $1) from tidings.outbox_
         order by id desc limit 1",
    );
    let old = sqlx::query(is_old)
        .bind(retention.as_secs_f64())
        .fetch_optional(&mut *connection)
        .await?;
    if !old
        .map(|row| row.try_get::<bool, _>(0))
        .transpose()?
        .unwrap_or(false)
    {
        return Ok(false);
    }
    let mut tx = connection.begin().await?;
    let lock = of_slot(
        "set local lock_timeout = '20ms'; lock table only tidings.outbox_ in access exclusive mode",
    );
    if let Err(error) = sqlx::raw_sql(lock).execute(&mut *tx).await {
        tracing::debug!(slot, %error, "the slot is in use: it is freed later");
        tx.rollback().await?;
        return Ok(false);
    }
    let unseen = of_slot(
        "select exists (select from tidings.outbox_ where not pg_visible_in_snapshot(xid, $1::text::pg_snapshot))
             or exists (select from tidings.outbox_ where at >= clock_timestamp() - make_interval(secs => $2))",
    );
    let unseen = sqlx::query(unseen)
        .bind(&cursor.seen)
        .bind(retention.as_secs_f64())
        .fetch_one(&mut *tx)
        .await?;
    if unseen.try_get::<bool, _>(0)? {
        tx.rollback().await?;
        return Ok(false);
    }
    sqlx::raw_sql(of_slot("truncate table only tidings.outbox_"))
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_that_is_written_to_and_the_next_are_never_freed() {
        for hour in 0..100 {
            #[allow(clippy::cast_precision_loss)]
            let now = (hour * 3600) as f64;
            let current = hour * 3600 / SLOT_SECONDS % SLOTS;
            let slots: Vec<_> = reclaimable_slots(now).collect();
            assert_eq!(slots.len(), 6);
            assert!(!slots.contains(&current) && !slots.contains(&((current + 1) % SLOTS)));
        }
    }
}
