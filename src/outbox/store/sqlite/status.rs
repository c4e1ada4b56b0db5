//! The figures of the status. Never judges them.

use chrono::DateTime;
use sqlx::{Row as _, SqliteConnection};

use crate::outbox::store::{
    Names,
    status::{Status, parked_figures},
};

pub(super) async fn status(
    connection: &mut SqliteConnection,
    names: &Names,
) -> Result<Status, sqlx::Error> {
    let figures = concat!(
        "with parked as materialized (
            ",
        parked_figures!("tidings_parked", "typeof(created_at) = 'integer'"),
        "
        ), behind as materialized (
            select count(*) as events, min(log.created_at) as oldest
            from tidings_outbox as log where log.id > (select cursor from tidings_relay)
        )
        select relay.owner, relay.epoch,
            case when relay.lease_until = 0 then 0.0
                 else relay.lease_until / 1000000.0 - unixepoch('subsec') end,
            behind.events + parked.going_back,
            unixepoch('subsec') - min(coalesce(behind.oldest, parked.oldest),
                                      coalesce(parked.oldest, behind.oldest)) / 1000000.0,
            parked.events,
            last.created_at, last.events, last.stream, last.last_sequence,
            (select count(*) from tidings_delayed),
            (select min(due) / 1000000.0 - unixepoch('subsec') from tidings_delayed),
            case when relay.lease_until = 0 then 0.0
                 else (relay.lease_until - relay.checkpointed_at) / 1000000.0 end,
            parked.waiting, relay.issues, relay.losses,
            unixepoch('subsec') - behind.oldest / 1000000.0,
            unixepoch('subsec') - parked.oldest_undecided / 1000000.0,
            parked.going_back
        from tidings_relay as relay cross join behind cross join parked
        left join (select * from tidings_ledger where kind <> 'discarded'
                   order by last_id desc limit 1) as last on true"
    );
    let row = sqlx::query(names.sql(figures, '_'))
        .fetch_one(connection)
        .await?;
    let at: Option<i64> = row.try_get(6)?;
    Status::read(&row, at.and_then(DateTime::from_timestamp_micros))
}
