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
    let figures = "select relay.owner, relay.epoch,
                case when relay.lease_until = 0 then 0.0
                     else relay.lease_until / 1000000.0 - unixepoch('subsec') end,
                (select count(*) from tidings_outbox where id > relay.cursor),
                (select unixepoch('subsec') - min(at) / 1000000.0 from tidings_outbox where id > relay.cursor),
                (select count(*) from tidings_parked),
                last.at, last.events, last.stream, last.last_sequence,
                (select count(*) from tidings_delayed),
                (select min(due) / 1000000.0 - unixepoch('subsec') from tidings_delayed),
                case when relay.lease_until = 0 then 0.0
                     else (relay.lease_until - relay.checkpointed_at) / 1000000.0 end,
                (select count(waits_for) from tidings_parked), relay.trouble, relay.losses
            from tidings_relay as relay
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
        parked: unsigned(row.try_get(5)?),
        delayed: unsigned(row.try_get(10)?),
        next_due_seconds: row.try_get(11)?,
        refuses: None,
        held: Vec::new(),
        waiting: unsigned(row.try_get(13)?),
        troubles: troubles_from(row.try_get(14)?)?,
        losses: open(&losses_from(row.try_get(15)?)?),
    })
}
