//! Reads new rows: a cursor that is a snapshot, and one statement that scans few rows. Never writes.

use futures::TryStreamExt;
use sqlx::PgConnection;

use super::{
    columns::{Statement, is_of_a_row, read, rows, shown},
    statement_scope::{StatementScope, query},
};
use crate::outbox::store::{Bound, Names, Page, Rows, delayed::due_in};

/// How far the relay is.
///
/// A row is new when `seen` does not see it. While a backlog larger than a page drains, `page` holds the snapshot under
/// which it is read, so that rows which commit meanwhile do not overtake the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgCursor {
    /// Every row that this snapshot sees is confirmed or parked.
    pub(super) seen: String,
    /// No row that `seen` sees has a higher id. It only splits the search, so that few rows are scanned.
    pub(super) floor: i64,
    pub(super) page: Option<PagePosition>,
    /// The server that the cursor belongs to, by the start time of its postmaster. Another server, reached through a
    /// pooler that has followed a failover, may have lost rows that this cursor sees, and may reuse their transaction
    /// ids.
    pub(super) server: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PagePosition {
    pub(super) snapshot: String,
    pub(super) last_id: i64,
}

/// Rows and the snapshot under which they are read come from one statement; so does the time until the next delayed
/// event is due, which is one index lookup.
///
/// A row that `seen` does not see has a transaction id in its list of open transactions, or at its xmax or above. The
/// fourth part scans the rows above the floor in the order of ids, and covers nearly everything. The second and third
/// parts find the rows below the floor by transaction: an id may be drawn before the snapshot and committed after it,
/// also by transactions at or above xmax, which is the successor of the last *completed* one. Once a page has passed
/// the floor, these two are not run at all.
///
/// The comparisons of pairs, the orders by (xid, id) and the limit that is never reached are for the planner: without
/// them a generic plan scans the whole log by id for each open transaction, or scans a slot that was empty when the
/// plan was made.
///
/// The floor stays at or below the last value of the sequence, which is read with the snapshot. Otherwise, after an id
/// that was written by hand far above all others, every row would count as late, and each page would sort the whole
/// backlog.
pub(super) async fn page(
    connection: &mut PgConnection,
    names: &Names,
    cursor: &PgCursor,
    bound: Bound,
) -> Result<Page<PgCursor>, sqlx::Error> {
    let [plain, checked] = FETCH.variants();
    match page_of(connection, names, (cursor, bound), plain).await {
        Err(error) if is_of_a_row(&error) => {
            page_of(connection, names, (cursor, bound), checked).await
        }
        page => page,
    }
}

const FETCH: Statement = rows!(
    "$7",
    "select '-9223372036854775808'::bigint as id, null::timestamptz as created_at, null::uuid as event,
               extract(epoch from pg_postmaster_start_time())::text || ' ' || pg_current_snapshot()::text ||
                   case when has_sequence_privilege('tidings.outbox_id', 'usage, select')
                        then ' ' || coalesce(pg_sequence_last_value('tidings.outbox_id'), 0) else '' end as name,
               null::int as version,
               case when $6 then (
                   select date_part('epoch', due - clock_timestamp())::text from tidings.delayed
                   order by due, position limit 1) end as key,
               coalesce($4, pg_current_snapshot()::text) as headers, null::bytea as payload
        union all
        select late.* from pg_snapshot_xip($1::text::pg_snapshot) as open(xid)
        cross join lateral (
            select id, created_at, event, name, version, key, headers, payload from tidings.outbox as log
            where (log.xid, log.id) > (open.xid, $3) and (log.xid, log.id) <= (open.xid, $2)
              and ($4 is null or pg_visible_in_snapshot(log.xid, $4::text::pg_snapshot))
            order by log.xid, log.id limit $5) as late
        where $3 < $2
        union all
        (select id, created_at, event, name, version, key, headers, payload from (
            select * from tidings.outbox as log
            where log.xid >= pg_snapshot_xmax($1::text::pg_snapshot)
              and log.xid < pg_snapshot_xmax(coalesce($4::text::pg_snapshot, pg_current_snapshot()))
              and log.id > $3 and log.id <= $2
              and ($4 is null or pg_visible_in_snapshot(log.xid, $4::text::pg_snapshot))
            order by log.xid, log.id limit $5 + 1000000000000) as recent
         where $3 < $2
         order by id limit $5)
        union all
        (select id, created_at, event, name, version, key, headers, payload from tidings.outbox as log
         where log.id > greatest($2, $3) and not pg_visible_in_snapshot(log.xid, $1::text::pg_snapshot)
           and ($4 is null or pg_visible_in_snapshot(log.xid, $4::text::pg_snapshot))
         order by log.id limit $5)
        order by id limit $5 + 1"
);

async fn page_of(
    connection: &mut PgConnection,
    names: &Names,
    (cursor, bound): (&PgCursor, Bound),
    fetch: &'static str,
) -> Result<Page<PgCursor>, sqlx::Error> {
    let page = cursor.page.as_ref();
    let mut scope = StatementScope::begin(connection, names).await?;
    let mut found = query(names, fetch)
        .bind(&cursor.seen)
        .bind(cursor.floor)
        // Only the sequence should assign ids; a row with a hand-written id below all others is read all the same.
        .bind(page.map_or(i64::MIN, |page| page.last_id))
        .bind(page.map(|page| &page.snapshot))
        .bind(i64::try_from(bound.rows).unwrap_or(i64::MAX))
        .bind(bound.with_due)
        .bind(i64::try_from(bound.bytes).unwrap_or(i64::MAX))
        .fetch(&mut *scope);
    let head = found.try_next().await?.ok_or(sqlx::Error::RowNotFound)?;
    let snapshot = shown(&head, 6)?.ok_or(sqlx::Error::RowNotFound)?;
    let seconds = shown(&head, 5)?;
    let answer = shown(&head, 3)?.unwrap_or_default();
    cursor.refuse_another(&answer)?;
    let read = Rows::read(found, |row| read(&row, bound.bytes).map(Some)).await?;
    scope.end().await?;
    let Rows { rows, are_cut } = read;
    let is_cut = rows.len() >= bound.rows || are_cut;
    let last_id = rows.last().map(|row| row.id);
    let next = cursor.after(last_id, snapshot, is_cut, drawn(&answer));
    Ok(Page {
        rows,
        next,
        is_cut: are_cut,
        is_whole: !is_cut && cursor.page.is_none(),
        due_in: seconds.and_then(|text| text.parse().ok()).map(due_in),
    })
}

impl PgCursor {
    /// Returns the cursor after a page that was read under `snapshot` and ends with `last_id`. A page that was cut
    /// keeps its snapshot, and the next one continues by id. `drawn` is the last id of the sequence.
    fn after(&self, last_id: Option<i64>, snapshot: String, is_cut: bool, drawn: i64) -> Self {
        let reached = self.page.as_ref().map_or(0, |page| page.last_id);
        let last_id = last_id.unwrap_or(reached);
        if is_cut {
            return Self {
                page: Some(PagePosition { snapshot, last_id }),
                ..self.clone()
            };
        }
        Self {
            seen: snapshot,
            floor: self.floor.max(last_id).min(drawn),
            page: None,
            server: self.server.clone(),
        }
    }

    /// Fails when another server answers than the one of this cursor, or when it has lost transactions. The relay then
    /// starts again with the cursor in the database.
    fn refuse_another(&self, answer: &str) -> Result<(), sqlx::Error> {
        let (server, now) = answer.split_once(' ').unwrap_or_default();
        let known = self.page.as_ref().map_or(&self.seen, |page| &page.snapshot);
        if server == self.server && is_not_before(now, known) {
            return Ok(());
        }
        Err(sqlx::Error::Protocol(format!(
            "another database server answers, or the server has lost transactions: its snapshot is {now} after {known}"
        )))
    }
}

/// The last id that the sequence has assigned; no limit when this role may not read it.
fn drawn(answer: &str) -> i64 {
    let drawn = answer.split(' ').nth(2);
    drawn.and_then(|id| id.parse().ok()).unwrap_or(i64::MAX)
}

/// Both bounds of a server's snapshots never decrease.
fn is_not_before(now: &str, known: &str) -> bool {
    let ends = |snapshot: &str| {
        let mut ends = snapshot.split(':').map(str::parse::<u64>);
        ends.next().zip(ends.next())
    };
    match (ends(now), ends(known)) {
        (Some((Ok(xmin), Ok(xmax))), Some((Ok(known_xmin), Ok(known_xmax)))) => {
            xmin >= known_xmin && xmax >= known_xmax
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor() -> PgCursor {
        PgCursor {
            seen: "1:1:".into(),
            floor: 10,
            page: None,
            server: "1".into(),
        }
    }

    #[test]
    fn a_whole_page_moves_the_snapshot_and_raises_the_floor() {
        let next = cursor().after(Some(15), "5:9:7".into(), false, i64::MAX);
        assert_eq!(
            next,
            PgCursor {
                seen: "5:9:7".into(),
                floor: 15,
                page: None,
                server: "1".into()
            }
        );
    }

    #[test]
    fn late_rows_below_the_floor_do_not_lower_it() {
        assert_eq!(
            cursor()
                .after(Some(3), "5:9:".into(), false, i64::MAX)
                .floor,
            10
        );
        assert_eq!(
            cursor().after(None, "5:9:".into(), false, i64::MAX).floor,
            10
        );
    }

    #[test]
    fn a_handwritten_row_id_does_not_raise_the_floor() {
        let far = Some(4_611_686_018_427_387_903);
        assert_eq!(cursor().after(far, "5:9:".into(), false, 17).floor, 17);
        // A floor that is too high is lowered.
        let mut high = cursor();
        high.floor = i64::MAX;
        assert_eq!(high.after(None, "5:9:".into(), false, 17).floor, 17);
        assert_eq!(drawn("1782.5 5:9:7,8 17"), 17);
        assert_eq!(drawn("1782.5 5:9: 0"), 0);
        for silent in ["1782.5 5:9:", "", "1 2 x"] {
            assert_eq!(drawn(silent), i64::MAX);
        }
    }

    #[test]
    fn a_cut_page_freezes_the_snapshot_until_the_rest_is_read() {
        let cut = cursor().after(Some(15), "5:9:".into(), true, i64::MAX);
        assert_eq!((&*cut.seen, cut.floor), ("1:1:", 10));
        let cut = cut.after(Some(18), "5:9:".into(), true, i64::MAX);
        assert_eq!(
            cut.page,
            Some(PagePosition {
                snapshot: "5:9:".into(),
                last_id: 18
            })
        );
        let rest = cut.after(None, "5:9:".into(), false, i64::MAX);
        assert_eq!(
            rest,
            PgCursor {
                seen: "5:9:".into(),
                floor: 18,
                page: None,
                server: "1".into()
            }
        );
    }
    #[test]
    fn an_older_or_different_server_is_refused() {
        let cursor = cursor().after(None, "5:9:7".into(), false, i64::MAX);
        for now in ["5:9:7", "5:9:5,7", "7:12:7", "9:9:"] {
            assert!(cursor.refuse_another(&format!("1 {now}")).is_ok(), "{now}");
            assert!(
                cursor.refuse_another(&format!("1 {now} 17")).is_ok(),
                "{now}"
            );
            assert!(cursor.refuse_another(&format!("2 {now}")).is_err(), "{now}");
        }
        for now in ["5:8:7", "4:9:4", "1:1:", "", "x:y:"] {
            assert!(cursor.refuse_another(&format!("1 {now}")).is_err(), "{now}");
        }
    }

    #[test]
    fn fuzz_answers_of_servers() {
        let seeds = [
            "1 5:9:7",
            "1 1:1:",
            "2 18446744073709551615:18446744073709551615:1,2,3",
        ];
        tidings_fuzz::fuzz_text("answer of a database", &seeds, |answer| {
            let next = cursor().after(Some(i64::MAX), answer.to_owned(), true, i64::MAX);
            let _ = next.refuse_another(answer);
            let _ = drawn(answer);
            cursor().refuse_another(answer).is_ok()
        });
    }
}
