//! Empties the rings: old slots are truncated, which leaves no work for vacuum. Never touches a slot that may still be
//! written to, or that holds a row which the relay has not passed.

use std::time::Duration;

use sqlx::{PgConnection, Row as _};

use super::{
    fetch::PgCursor,
    holders::{holders, of_delayed},
    slots,
    statement_scope::{StatementScope, begin, fetch_all, fetch_one, query, query_of},
};
use crate::{
    error_text::said,
    outbox::store::{LEDGER_RETENTION, Names, Reclaimed, status::HeldSlot},
};

/// A table in slots, as the migration creates it.
struct Ring {
    /// The beginning of the slots' names.
    table: &'static str,
    slots: i64,
    /// How long a slot is written to.
    seconds: i64,
    /// Selects whether a slot holds a row that must stay: `$1` is the cursor, `$2` the retention in seconds. It runs
    /// under a lock, so each part of it is one index lookup. The cursor sees all transactions below its xmin, so only
    /// rows from there on are examined.
    keeps: &'static str,
}

const LOG: Ring = Ring {
    table: "tidings.outbox_",
    slots: 8,
    seconds: 10_800,
    // A time in the far future keeps nothing.
    keeps: "select coalesce((select created_at >= clock_timestamp() - make_interval(secs => $2)
                        from $slot where created_at < clock_timestamp() + interval '1 year' order by id desc limit 1), false)
            or exists (select from (
                   select xid from $slot where xid >= pg_snapshot_xmin($1::text::pg_snapshot)
                   order by xid, id limit 1000000000000) as recent
               where not pg_visible_in_snapshot(xid, $1::text::pg_snapshot))",
};

const LEDGER: Ring = Ring {
    table: "tidings.ledger_",
    slots: 16,
    seconds: 86_400,
    keeps: "select coalesce((select created_at >= clock_timestamp() - make_interval(secs => $2)
                        from $slot order by last_id desc limit 1), false) or $1::text is null",
};

/// Frees at most one slot of the log and one of the ledger.
pub(super) async fn oldest_slots(
    connection: &mut PgConnection,
    names: &Names,
    cursor: &PgCursor,
    retention: Duration,
) -> Result<Reclaimed, sqlx::Error> {
    let (seconds, advice) = slots::fit(connection, names, retention).await?;
    let mut reclaimed = Reclaimed {
        advice,
        ..Reclaimed::default()
    };
    // While a backlog drains, the snapshot alone does not tell which rows the cursor has passed.
    if cursor.page.is_some() {
        return Ok(reclaimed);
    }
    let now = clock(connection, names).await?;
    let log = Ring { seconds, ..LOG };
    let mut freed = Vec::new();
    for (ring, retention) in [(log, retention), (LEDGER, LEDGER_RETENTION)] {
        for slot in ring.occupied(connection, names, now).await? {
            let found = ring
                .reclaim(connection, names, cursor, slot, retention)
                .await?;
            match found {
                Found::Needed => {}
                Found::Held(held) => reclaimed.held.extend(held),
                Found::Freed => {
                    freed.push(names.text(&format!("{}{slot}", ring.table), '.'));
                    break;
                }
            }
        }
    }
    reclaimed.freed = (!freed.is_empty()).then(|| freed.join(", "));
    Ok(reclaimed)
}

/// Returns the slots of the log that should be free, and the table of delayed events when some are due, with the
/// transactions that hold them. Only the relay knows the retention, so the length that the ring keeps stands in for it.
pub(super) async fn held(
    connection: &mut PgConnection,
    names: &Names,
) -> Result<Vec<HeldSlot>, sqlx::Error> {
    let seconds = slots::seconds(connection, names).await?;
    let log = Ring { seconds, ..LOG };
    let kept = Duration::from_secs(u64::try_from(seconds.saturating_mul(6)).unwrap_or(0));
    let cursor = "select cursor::text from tidings.relay";
    let row = fetch_one(connection, names, query(names, cursor)).await?;
    let cursor: String = row.try_get(0)?;
    let now = clock(connection, names).await?;
    let mut held = Vec::new();
    for slot in log.reclaimable(now) {
        if log.is_free(connection, names, &cursor, slot, kept).await? {
            held.extend(holders(connection, names, &format!("{}{slot}", log.table)).await?);
        }
    }
    held.extend(of_delayed(connection, names).await?);
    Ok(held)
}

async fn clock(connection: &mut PgConnection, names: &Names) -> Result<f64, sqlx::Error> {
    let now = fetch_one(
        connection,
        names,
        query(names, "select date_part('epoch', clock_timestamp())"),
    )
    .await?;
    now.try_get(0)
}

/// The result for one slot.
enum Found {
    /// It holds rows that must stay, or none.
    Needed,
    /// It should be free, and transactions hold it.
    Held(Vec<HeldSlot>),
    Freed,
}

impl Ring {
    /// Returns the slots that are not written to at `now` nor very soon, oldest first. The next slot may be freed until
    /// a sixth of the current one is left. If the next slot were always left out, the last rows of a slot would reach
    /// the retention only when their slot is the next one, and no slot of a busy log would ever be freed.
    fn reclaimable(&self, now: f64) -> impl Iterator<Item = i64> + use<> {
        #[allow(clippy::cast_possible_truncation)] // seconds since 1970
        let now = now as i64;
        let (current, left) = (now / self.seconds, self.seconds - now % self.seconds);
        let first = if left > self.seconds / 6 { 1 } else { 2 };
        let slots = self.slots;
        (first..slots).map(move |ahead| (current + ahead) % slots)
    }

    /// Returns those of them that hold rows, with one statement: an idle relay should cost little.
    async fn occupied(
        &self,
        connection: &mut PgConnection,
        names: &Names,
        now: f64,
    ) -> Result<Vec<i64>, sqlx::Error> {
        let table = self.table;
        let asked: Vec<String> = self
            .reclaimable(now)
            .map(|slot| format!("select {slot}::bigint where exists (select from {table}{slot})"))
            .collect();
        let text = names.text(&asked.join(" union all "), '.');
        // Safe: constants, numbers and a checked identifier.
        let occupied = query_of(names, sqlx::AssertSqlSafe(text));
        let rows = fetch_all(connection, names, occupied).await?;
        let mut occupied: Vec<i64> = rows
            .iter()
            .map(|row| row.try_get(0))
            .collect::<Result<_, _>>()?;
        let oldest_first: Vec<i64> = self.reclaimable(now).collect();
        occupied.sort_by_key(|slot| oldest_first.iter().position(|other| other == slot));
        Ok(occupied)
    }

    /// Returns a statement about one slot, which is written as `$slot` in it.
    fn sql(&self, names: &Names, slot: i64, text: &str) -> sqlx::AssertSqlSafe<String> {
        let text = text.replace("$slot", &format!("{}{slot}", self.table));
        // Safe: constants, a number and a checked identifier.
        sqlx::AssertSqlSafe(names.text(&text, '.'))
    }

    /// Truncates a slot when all its rows are older than the retention and none must stay. Checks again under the lock,
    /// because a late writer may have added a row.
    async fn reclaim(
        &self,
        connection: &mut PgConnection,
        names: &Names,
        cursor: &PgCursor,
        slot: i64,
        retention: Duration,
    ) -> Result<Found, sqlx::Error> {
        let cursor = &cursor.seen;
        let is_free = self.is_free(connection, names, cursor, slot, retention);
        if !is_free.await? {
            return Ok(Found::Needed);
        }
        // A lock request that waits blocks all later ones, so none is made while a transaction holds the slot.
        let held = holders(connection, names, &format!("{}{slot}", self.table)).await?;
        if !held.is_empty() {
            return Ok(Found::Held(held));
        }
        let mut tx = begin(connection).await?;
        let lock =
            "set local lock_timeout = '20ms'; lock table only $slot in access exclusive mode";
        let lock = self.sql(names, slot, lock);
        if let Err(error) = sqlx::raw_sql(lock).execute(&mut *tx).await {
            tx.rollback().await?;
            if !slots::is_in_use(&error) {
                return Err(error);
            }
            tracing::debug!(
                slot,
                error = said(&error),
                "outbox slot in use: it is freed later"
            );
            return Ok(Found::Needed);
        }
        if self.keeps(&mut tx, names, cursor, slot, retention).await? {
            tx.rollback().await?;
            return Ok(Found::Needed);
        }
        sqlx::raw_sql(self.sql(names, slot, "truncate table only $slot"))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(Found::Freed)
    }

    /// Whether a slot holds rows, and none of them must stay.
    async fn is_free(
        &self,
        connection: &mut PgConnection,
        names: &Names,
        cursor: &str,
        slot: i64,
        retention: Duration,
    ) -> Result<bool, sqlx::Error> {
        let any = self.sql(names, slot, "select exists (select from $slot)");
        let mut scope = StatementScope::begin(connection, names).await?;
        let any = query_of(names, any).fetch_one(&mut *scope).await?;
        let is_free = any.try_get::<bool, _>(0)?
            && !self
                .keeps(&mut scope, names, cursor, slot, retention)
                .await?;
        scope.end().await?;
        Ok(is_free)
    }

    /// Whether a slot holds a row that must stay.
    async fn keeps(
        &self,
        connection: &mut PgConnection,
        names: &Names,
        cursor: &str,
        slot: i64,
        retention: Duration,
    ) -> Result<bool, sqlx::Error> {
        query_of(names, self.sql(names, slot, self.keeps))
            .bind(cursor)
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
    fn the_current_and_the_next_slot_are_never_freed() {
        for ring in [LOG, LEDGER] {
            for minute in 0..50_000_i64 {
                #[allow(clippy::cast_precision_loss)]
                let now = (minute * 60) as f64;
                let slot_at = |seconds: i64| seconds / ring.seconds % ring.slots;
                let slots: Vec<_> = ring.reclaimable(now).collect();
                assert!(!slots.contains(&slot_at(minute * 60)));
                assert!(!slots.contains(&slot_at(minute * 60 + ring.seconds / 6 - 1)));
            }
        }
    }

    /// For at least half the time in which a slot is written to, its last row is older than the retention while the
    /// slot may be freed.
    #[test]
    fn a_full_slot_is_freed_before_it_is_written_again() {
        let (log, ledger) = (18 * 3600, 14 * 86_400);
        for (ring, retention) in [(LOG, log), (LEDGER, ledger)] {
            let minutes = (0..ring.seconds * ring.slots / 60).filter(|minute| {
                let now = minute * 60;
                #[allow(clippy::cast_precision_loss)]
                let mut slots = ring.reclaimable(now as f64);
                now - ring.seconds >= retention && slots.any(|slot| slot == 0)
            });
            let minutes = i64::try_from(minutes.count()).unwrap();
            assert!(minutes * 60 > ring.seconds / 2, "{minutes} minutes");
        }
    }
}
