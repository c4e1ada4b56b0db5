//! Emptying the rings: old slots are truncated, which leaves nothing for vacuum. Never touches a slot that
//! may still be written to, or that holds a row which the relay has not carried away.

use std::time::Duration;

use sqlx::{Connection, PgConnection, Row as _};

use super::{
    fetch::PgCursor,
    turn::{Turn, query, query_of},
};
use crate::outbox::store::{LEDGER_RETENTION, Names};

/// A table in slots, as the migration makes it.
struct Ring {
    /// What the slots' names begin with.
    table: &'static str,
    slots: i64,
    /// How long a slot is written to.
    seconds: i64,
    /// Whether a slot holds something that must stay: `$1` is the cursor, `$2` the retention in seconds. It
    /// is asked under a lock, so every part of it is a step into an index. Below the cursor's xmin all
    /// transactions are seen, so only rows from there on are looked at.
    keeps: &'static str,
}

const LOG: Ring = Ring {
    table: "tidings.outbox_",
    slots: 8,
    seconds: 10_800,
    keeps: "select coalesce((select at >= clock_timestamp() - make_interval(secs => $2)
                        from $slot order by id desc limit 1), false)
            or exists (select from (
                   select xid from $slot where xid >= pg_snapshot_xmin($1::text::pg_snapshot)
                   order by xid, id limit 1000000000000) as recent
               where not pg_visible_in_snapshot(xid, $1::text::pg_snapshot))",
};

const LEDGER: Ring = Ring {
    table: "tidings.ledger_",
    slots: 16,
    seconds: 86_400,
    keeps: "select coalesce((select at >= clock_timestamp() - make_interval(secs => $2)
                        from $slot order by last_id desc limit 1), false) or $1::text is null",
};

/// Frees one slot of the log, and one of the ledger, if one may be.
pub(super) async fn oldest_slots(
    connection: &mut PgConnection,
    names: &Names,
    cursor: &PgCursor,
    retention: Duration,
) -> Result<Option<String>, sqlx::Error> {
    // While a backlog drains, what is behind the cursor is not known by the snapshot alone.
    if cursor.page.is_some() {
        return Ok(None);
    }
    let mut turn = Turn::begin(connection, names).await?;
    let now: f64 = query(names, "select date_part('epoch', clock_timestamp())")
        .fetch_one(&mut *turn)
        .await?
        .try_get(0)?;
    turn.end().await?;
    let mut freed = Vec::new();
    for (ring, retention) in [(LOG, retention), (LEDGER, LEDGER_RETENTION)] {
        for slot in ring.reclaimable(now) {
            if ring
                .reclaim(connection, names, cursor, slot, retention)
                .await?
            {
                freed.push(names.text(&format!("{}{slot}", ring.table), '.'));
                break;
            }
        }
    }
    Ok((!freed.is_empty()).then(|| freed.join(", ")))
}

impl Ring {
    /// The slots that are neither written to at `now` nor next, oldest first.
    fn reclaimable(&self, now: f64) -> impl Iterator<Item = i64> + use<> {
        #[allow(clippy::cast_possible_truncation)] // seconds since 1970
        let current = now as i64 / self.seconds;
        let slots = self.slots;
        (2..slots).map(move |ahead| (current + ahead) % slots)
    }

    /// A statement about one slot, which stands as `slot` in it.
    fn sql(&self, names: &Names, slot: i64, text: &str) -> sqlx::AssertSqlSafe<String> {
        let text = text.replace("$slot", &format!("{}{slot}", self.table));
        // Safe: constants, a number and a checked identifier.
        sqlx::AssertSqlSafe(names.text(&text, '.'))
    }

    /// Truncates a slot when all of it is older than the retention and nothing is to be kept. That is
    /// asked again under the lock, because a writer that was late may have added a row.
    async fn reclaim(
        &self,
        connection: &mut PgConnection,
        names: &Names,
        cursor: &PgCursor,
        slot: i64,
        retention: Duration,
    ) -> Result<bool, sqlx::Error> {
        let any = self.sql(names, slot, "select exists (select from $slot)");
        let mut turn = Turn::begin(connection, names).await?;
        let any = query_of(names, any).fetch_one(&mut *turn).await?;
        let is_free = any.try_get::<bool, _>(0)?
            && !self
                .keeps(&mut turn, names, cursor, slot, retention)
                .await?;
        turn.end().await?;
        if !is_free {
            return Ok(false);
        }
        let mut tx = connection.begin().await?;
        let lock =
            "set local lock_timeout = '20ms'; lock table only $slot in access exclusive mode";
        let lock = self.sql(names, slot, lock);
        if let Err(error) = sqlx::raw_sql(lock).execute(&mut *tx).await {
            tracing::debug!(slot, %error, "the slot is in use: it is freed later");
            tx.rollback().await?;
            return Ok(false);
        }
        if self.keeps(&mut tx, names, cursor, slot, retention).await? {
            tx.rollback().await?;
            return Ok(false);
        }
        sqlx::raw_sql(self.sql(names, slot, "truncate table only $slot"))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Whether a slot holds something that must stay.
    async fn keeps(
        &self,
        connection: &mut PgConnection,
        names: &Names,
        cursor: &PgCursor,
        slot: i64,
        retention: Duration,
    ) -> Result<bool, sqlx::Error> {
        query_of(names, self.sql(names, slot, self.keeps))
            .bind(&cursor.seen)
            .bind(retention.as_secs_f64())
            .fetch_one(connection)
            .await?
            .try_get(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_that_is_written_to_and_the_next_are_never_freed() {
        for ring in [LOG, LEDGER] {
            for hour in 0..500 {
                #[allow(clippy::cast_precision_loss)]
                let now = (hour * 3600) as f64;
                let current = hour * 3600 / ring.seconds % ring.slots;
                let slots: Vec<_> = ring.reclaimable(now).collect();
                assert_eq!(slots.len(), usize::try_from(ring.slots).unwrap() - 2);
                assert!(
                    !slots.contains(&current) && !slots.contains(&((current + 1) % ring.slots))
                );
            }
        }
    }
}
