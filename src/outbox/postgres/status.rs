//! The figures of the status. Never judges them.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row as _};

use super::turn::{Turn, query};
use crate::outbox::{
    standing::{losses_from, open},
    status::{LastBatch, LeaseStatus, Status, troubles_from},
    store::{Names, unsigned},
};

pub(super) async fn status(
    connection: &mut PgConnection,
    names: &Names,
) -> Result<Status, sqlx::Error> {
    let figures = "
        select
            relay.owner, relay.epoch,
            coalesce(date_part('epoch', nullif(relay.lease_until, '-infinity') - clock_timestamp()), 0),
            backlog.events + parked.going_back,
            date_part('epoch', clock_timestamp() - least(backlog.oldest, parked.oldest)),
            parked.events,
            last.at, last.events, last.stream, last.last_sequence,
            (select count(*) from tidings.delayed),
            (select date_part('epoch', min(due) - clock_timestamp()) from tidings.delayed),
            coalesce(date_part('epoch', nullif(relay.lease_until, '-infinity') - relay.checkpointed_at), 0),
            parked.waiting, relay.trouble::text, relay.losses::text,
            date_part('epoch', clock_timestamp() - backlog.oldest),
            date_part('epoch', clock_timestamp() - parked.oldest_undecided),
            parked.going_back
        from tidings.relay
        cross join lateral (
            select count(*) as events, min(log.at) filter (where isfinite(log.at)) as oldest from tidings.outbox as log
            where log.xid >= pg_snapshot_xmin(relay.cursor)
              and not pg_visible_in_snapshot(log.xid, relay.cursor)
              and (relay.page_id is null or log.id > relay.page_id
                   or not pg_visible_in_snapshot(log.xid, relay.page_snapshot))
        ) as backlog
        -- what is asked for, and what waits for a stream or a subject, goes back by itself; so does what follows
        -- the first one of a key that does
        cross join lateral (
            select count(*) as events, count(waits_for) as waiting,
                   count(*) filter (where goes_back) as going_back,
                   min(at) filter (where goes_back) as oldest,
                   min(at) filter (where not goes_back) as oldest_undecided
            from (
                select log.at, log.waits_for, log.waits_for is not null or log.asked_at is not null
                    or coalesce(leader.waits_for is not null or leader.asked_at is not null, false) as goes_back
                from tidings.parked as log
                left join (
                    select key, min(id) as id from tidings.parked
                    where waits_for is null or waits_for not like 'stream %' group by key
                ) as first on first.key = log.key and first.id < log.id
                left join tidings.parked as leader on leader.id = first.id
            ) as each
        ) as parked
        left join lateral (
            select at, events, stream, last_sequence from tidings.ledger
            where way <> 'discarded' order by last_id desc limit 1
        ) as last on true";
    let mut turn = Turn::begin(connection, names).await?;
    let row = query(names, figures).fetch_one(&mut *turn).await?;
    turn.end().await?;
    let last_at: Option<DateTime<Utc>> = row.try_get(6)?;
    let last_batch = match last_at {
        None => None,
        Some(at) => Some(LastBatch {
            at,
            events: unsigned(row.try_get::<i32, _>(7)?.into()),
            stream: row.try_get(8)?,
            last_sequence: unsigned(row.try_get(9)?),
        }),
    };
    let (parked, returning) = (unsigned(row.try_get(5)?), unsigned(row.try_get(18)?));
    Ok(Status {
        backlog: unsigned(row.try_get(3)?),
        oldest_unpublished_seconds: row.try_get(4)?,
        lease: LeaseStatus {
            owner: row.try_get(0)?,
            epoch: row.try_get(1)?,
            remaining_seconds: row.try_get(2)?,
            lasts_seconds: row.try_get(12)?,
        },
        last_batch,
        oldest_behind_seconds: row.try_get(16)?,
        parked,
        delayed: unsigned(row.try_get(10)?),
        next_due_seconds: row.try_get(11)?,
        refuses: None,
        held: Vec::new(),
        waiting: unsigned(row.try_get(13)?),
        returning,
        undecided: parked.saturating_sub(returning),
        oldest_undecided_seconds: row.try_get(17)?,
        stands_still: false,
        nats: None,
        troubles: troubles_from(row.try_get(14)?)?,
        losses: open(&losses_from(row.try_get(15)?)?),
    })
}
