//! The figures of the status. Never judges them.

use chrono::DateTime;
use sqlx::{Row as _, SqliteConnection};

use crate::outbox::{
    standing::{losses_from, open},
    status::{LastBatch, LeaseStatus, Status, troubles_from},
    store::{Names, unsigned},
};

pub(super) async fn status(
    connection: &mut SqliteConnection,
    names: &Names,
) -> Result<Status, sqlx::Error> {
    // What is asked for, and what waits for a stream or a subject, goes back by itself; so does what follows the first
    // one of a key that does.
    let figures = "with parked as materialized (
            select count(*) as events, count(waits_for) as waiting,
                   count(*) filter (where goes_back) as going_back,
                   min(at) filter (where goes_back) as oldest,
                   min(at) filter (where not goes_back) as oldest_undecided
            from (
                select log.at, log.waits_for, log.waits_for is not null or log.asked_at is not null
                    or coalesce(leader.waits_for is not null or leader.asked_at is not null, false) as goes_back
                from tidings_parked as log
                left join (
                    select key, min(id) as id from tidings_parked
                    where waits_for is null or waits_for not like 'stream %' group by key
                ) as first on first.key = log.key and first.id < log.id
                left join tidings_parked as leader on leader.id = first.id
            )
        ), behind as materialized (
            select count(*) as events, min(log.at) as oldest
            from tidings_outbox as log where log.id > (select cursor from tidings_relay)
        )
        select relay.owner, relay.epoch,
            case when relay.lease_until = 0 then 0.0
                 else relay.lease_until / 1000000.0 - unixepoch('subsec') end,
            behind.events + parked.going_back,
            unixepoch('subsec') - min(coalesce(behind.oldest, parked.oldest),
                                      coalesce(parked.oldest, behind.oldest)) / 1000000.0,
            parked.events,
            last.at, last.events, last.stream, last.last_sequence,
            (select count(*) from tidings_delayed),
            (select min(due) / 1000000.0 - unixepoch('subsec') from tidings_delayed),
            case when relay.lease_until = 0 then 0.0
                 else (relay.lease_until - relay.checkpointed_at) / 1000000.0 end,
            parked.waiting, relay.trouble, relay.losses,
            unixepoch('subsec') - behind.oldest / 1000000.0,
            unixepoch('subsec') - parked.oldest_undecided / 1000000.0,
            parked.going_back
        from tidings_relay as relay cross join behind cross join parked
        left join (select * from tidings_ledger where way <> 'discarded'
                   order by last_id desc limit 1) as last on true";
    let row = sqlx::query(names.sql(figures, '_'))
        .fetch_one(connection)
        .await?;
    let last_at: Option<i64> = row.try_get(6)?;
    let last_batch = match last_at.and_then(DateTime::from_timestamp_micros) {
        None => None,
        Some(at) => Some(LastBatch {
            at,
            events: unsigned(row.try_get(7)?),
            stream: row.try_get(8)?,
            last_sequence: unsigned(row.try_get(9)?),
        }),
    };
    let (parked, returning) = (unsigned(row.try_get(5)?), unsigned(row.try_get(18)?));
    Ok(Status {
        backlog: unsigned(row.try_get(3)?),
        oldest_unpublished_seconds: row.try_get(4)?,
        oldest_behind_seconds: row.try_get(16)?,
        lease: LeaseStatus {
            owner: row.try_get(0)?,
            epoch: row.try_get(1)?,
            remaining_seconds: row.try_get(2)?,
            lasts_seconds: row.try_get(12)?,
        },
        last_batch,
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
