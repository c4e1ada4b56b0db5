//! The figures of the status. Never judges them.

use sqlx::{PgConnection, Row as _};

use super::statement_scope::{fetch_one, query};
use crate::outbox::store::{
    Names,
    status::{Status, parked_figures},
};

pub(super) async fn status(
    connection: &mut PgConnection,
    names: &Names,
) -> Result<Status, sqlx::Error> {
    let figures = concat!(
        "
        select
            relay.owner, relay.epoch,
            coalesce(date_part('epoch', nullif(relay.lease_until, '-infinity') - clock_timestamp()), 0),
            backlog.events + parked.going_back,
            date_part('epoch', clock_timestamp() - least(backlog.oldest, parked.oldest)),
            parked.events,
            last.created_at, last.events::bigint, last.stream, last.last_sequence,
            (select count(*) from tidings.delayed),
            (select date_part('epoch', min(due) - clock_timestamp()) from tidings.delayed),
            coalesce(date_part('epoch', nullif(relay.lease_until, '-infinity') - relay.checkpointed_at), 0),
            parked.waiting, relay.issues::text, relay.losses::text,
            date_part('epoch', clock_timestamp() - backlog.oldest),
            date_part('epoch', clock_timestamp() - parked.oldest_undecided),
            parked.going_back
        from tidings.relay
        cross join lateral (
            select count(*) as events, min(log.created_at) filter (where isfinite(log.created_at)) as oldest from tidings.outbox as log
            where log.xid >= pg_snapshot_xmin(relay.cursor)
              and not pg_visible_in_snapshot(log.xid, relay.cursor)
              and (relay.page_id is null or log.id > relay.page_id
                   or not pg_visible_in_snapshot(log.xid, relay.page_snapshot))
        ) as backlog
        cross join lateral (",
        parked_figures!("tidings.parked", "isfinite(created_at)"),
        "
        ) as parked
        left join lateral (
            select created_at, events, stream, last_sequence from tidings.ledger
            where kind <> 'discarded'
              -- an id that was written by hand, far above all others, would hide what is confirmed after it
              and last_id <= (select coalesce(
                  case when has_sequence_privilege('tidings.outbox_id', 'usage, select')
                       then pg_sequence_last_value('tidings.outbox_id') end, 9223372036854775807))
            order by last_id desc limit 1
        ) as last on true"
    );
    let row = fetch_one(connection, names, query(names, figures)).await?;
    Status::read(&row, row.try_get(6)?)
}
