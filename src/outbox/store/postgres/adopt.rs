//! Adopts an outbox that was copied row by row: each row gets a transaction id that is valid in this database, and the
//! unpublished rows are published next. Never publishes, and never drops or reorders a row.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, Postgres, Row as _};
use uuid::Uuid;

use super::{
    columns::{is_passed, moment, shown},
    origin::{SYSTEM, origin},
    statement_scope::{query, query_of},
};
use crate::{
    database_error::DatabaseError,
    outbox::store::{
        Names,
        origin::{Origin, STANDBY},
        positions_from, unsigned,
    },
};

/// What adopting the outbox does, or has done.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Adoption {
    /// Why it is necessary.
    pub reason: String,
    /// Events in the log.
    pub events: u64,
    /// Events that the relay has published, and will not publish again.
    pub published: u64,
    /// Events that the relay publishes next, unless it finds them in the stream.
    pub to_publish: u64,
    /// The first event to publish, in the order of the log.
    pub oldest: Option<AdoptedEvent>,
    /// The last event to publish.
    pub newest: Option<AdoptedEvent>,
    /// Per stream, the sequence after which the relay looks for events that were published and not recorded.
    pub streams: BTreeMap<String, u64>,
}

/// An event of the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct AdoptedEvent {
    /// The row id in the log.
    pub id: i64,
    /// When it was written.
    pub at: DateTime<Utc>,
    /// The event's id.
    pub event: Uuid,
    /// The event's name.
    pub name: String,
}

/// Why an outbox was not adopted. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// The tables are missing.
    #[error("the database has no outbox: run `tidings migrate`, or call `Outbox::migrate`")]
    NotMigrated(#[source] DatabaseError),
    /// The server is a standby.
    #[error("{STANDBY}")]
    Standby,
    /// By the copied row, a relay has the lease. The lease expires by itself.
    #[error("the lease of {owner} lasts another {seconds:.1} s: stop that relay, or wait")]
    Leased {
        /// The owner of the lease.
        owner: String,
        /// How long the lease lasts, in seconds.
        seconds: f64,
    },
    /// Transactions hold the outbox.
    #[error("the outbox is in use: end the transactions that read or write it")]
    InUse(#[source] DatabaseError),
    /// The database failed.
    #[error(transparent)]
    Database(DatabaseError),
}

/// The transaction id of published rows: every snapshot sees it.
const PUBLISHED: &str = "'3'::xid8";

/// The bounds of the table, which a copy made row by row may have lacked.
const IS_EVENT: &str = "id > 0 and id < 4611686018427387904 and version > 0
    and created_at >= '0001-01-01 00:00:00+00' and created_at < '10000-01-01 00:00:00+00'";

/// The rows of the log, each with whether it was published. `$1` is this transaction's id.
///
/// Cursor and rows were copied together, so exactly the rows that the cursor does not see were unpublished when the
/// copy was made. Rows that were written here since then have transaction ids of this server, to which the cursor does
/// not apply: they were not published, whatever it shows. Two properties identify them, which a copied row has only by
/// chance. Their id is at most that of the row version (a savepoint's id is above that of its transaction), and it is
/// above that of the transaction which wrote the relay's row here: a restore ends before any application writes events.
/// So no other statement may update that row in a copy.
const LOG: &str = concat!(
    "
    select log.id, log.created_at, log.event, log.name, log.version, log.key, log.headers, log.payload, log.slot,
           ",
    is_passed!(),
    "
           and not (log.xid::text::bigint > $1::text::bigint - age(relay.xmin)
                    and log.xid::text::bigint <= $1::text::bigint - age(log.xmin)) as published
    from tidings.outbox as log, tidings.relay as relay"
);

/// Returns what has to be done, if anything.
pub(in crate::outbox) async fn plan(
    connection: &mut PgConnection,
    names: &Names,
) -> Result<Option<Adoption>, AdoptError> {
    let reason = match origin(connection, names).await? {
        Origin::Own => return Ok(None),
        Origin::Standby => return Err(AdoptError::Standby),
        Origin::Foreign(reason) => reason,
    };
    refuse_while_leased(connection, names).await?;
    let own = own_transaction(connection, names).await?;
    let row = query(names, "select streams::text from tidings.relay")
        .fetch_one(&mut *connection)
        .await?;
    let streams = positions_from(row.try_get(0)?)?.into_iter();
    let count = format!("select count(*), count(*) filter (where published) from ({LOG}) as log");
    let counts = query_of(names, in_names(names, &count))
        .bind(&own)
        .fetch_one(&mut *connection)
        .await?;
    let (events, published) = (unsigned(counts.try_get(0)?), unsigned(counts.try_get(1)?));
    Ok(Some(Adoption {
        reason,
        events,
        published,
        to_publish: events - published,
        oldest: first_unpublished(connection, names, &own, "asc").await?,
        newest: first_unpublished(connection, names, &own, "desc").await?,
        streams: streams.map(|(stream, at)| (stream, at.sequence)).collect(),
    }))
}

pub(in crate::outbox) async fn adopt(
    connection: &mut PgConnection,
    names: &Names,
) -> Result<Option<Adoption>, AdoptError> {
    // Checked first, also because a standby assigns no transaction ids.
    if origin(connection, names).await? == Origin::Standby {
        return Err(AdoptError::Standby);
    }
    let own = own_transaction(connection, names).await?;
    let lock = "set local lock_timeout = '10s';
        lock table tidings.outbox, tidings.relay in access exclusive mode";
    sqlx::raw_sql(names.sql(lock, '.'))
        .execute(&mut *connection)
        .await?;
    let Some(planned) = plan(connection, names).await? else {
        return Ok(None);
    };
    // Through a temporary table: an update would leave a dead row for each row.
    let keep =
        format!("create temporary table tidings_adopt on commit drop as {LOG} order by log.id");
    let keep = keep.replace("$1", &format!("'{own}'"));
    sqlx::raw_sql(in_names(names, &keep))
        .execute(&mut *connection)
        .await?;
    let write = format!(
        "truncate table tidings.outbox;
        -- rows with the ids of other transactions
        set local tidings_copy.rows = 'on';
        insert into tidings.outbox (xid, id, created_at, event, name, version, key, headers, payload, slot)
        select case when published then {PUBLISHED} else pg_current_xact_id() end,
               id, created_at, event, name, version, key, headers, payload, slot
        from pg_temp.tidings_adopt where {IS_EVENT} order by id;
        -- came past the trigger, as by a subscription: no relay could have published it
        insert into tidings.parked (id, created_at, event, name, version, key, headers, payload, error)
        select distinct on (id) id, created_at, event, name, version, key, headers, payload,
               'the row is not an event: its id, its version or its time is out of bounds'
        from pg_temp.tidings_adopt where not ({IS_EVENT}) and not published order by id
        on conflict (id) do nothing;
        -- A logical copy leaves sequences where they were. An id that was written by hand at the very end must not
        -- leave the sequence without any: it never comes that far.
        select setval('tidings.outbox_id', greatest(last_value,
            (select max(id) from pg_temp.tidings_adopt where id < 4000000000000000000)))
        from tidings.outbox_id where is_called or exists (select from pg_temp.tidings_adopt)"
    );
    sqlx::raw_sql(in_names(names, &write))
        .execute(&mut *connection)
        .await?;
    begin_anew(connection, names).await?;
    Ok(Some(planned))
}

/// Sets the cursor to see every transaction that has ended, except this one. This one must be added to the list of open
/// transactions by hand: a snapshot leaves its own transaction out, and would see it as soon as a later one has ended.
async fn begin_anew(connection: &mut PgConnection, names: &Names) -> Result<(), sqlx::Error> {
    let write = format!(
        "with now as materialized (
            select pg_current_snapshot() as snapshot, pg_current_xact_id() as own
        ), open as (
            select pg_snapshot_xip(snapshot) as xid from now
            union
            select own from now where own < pg_snapshot_xmax(snapshot)
        )
        update tidings.relay
        set cursor = (
                select concat(least(own, pg_snapshot_xmin(snapshot)), ':', pg_snapshot_xmax(snapshot), ':',
                              (select string_agg(xid::text, ',' order by xid) from open))::pg_snapshot
                from now),
            id_floor = coalesce((select max(id) from pg_temp.tidings_adopt where published), 0),
            page_snapshot = null, page_id = null, system = {SYSTEM},
            owner = null, lease_until = '-infinity', epoch = epoch + 1"
    );
    sqlx::raw_sql(in_names(names, &write))
        .execute(connection)
        .await
        .map(drop)
}

async fn refuse_while_leased(
    connection: &mut PgConnection,
    names: &Names,
) -> Result<(), AdoptError> {
    let lease =
        "select owner, date_part('epoch', lease_until - clock_timestamp()) from tidings.relay
        where owner is not null and lease_until > clock_timestamp()";
    let lease = query(names, lease).fetch_optional(connection).await?;
    match lease {
        None => Ok(()),
        Some(lease) => Err(AdoptError::Leased {
            owner: lease.try_get(0)?,
            seconds: lease.try_get(1)?,
        }),
    }
}

async fn own_transaction(
    connection: &mut PgConnection,
    names: &Names,
) -> Result<String, sqlx::Error> {
    query(names, "select pg_current_xact_id()::text")
        .fetch_one(connection)
        .await?
        .try_get(0)
}

async fn first_unpublished(
    connection: &mut PgConnection,
    names: &Names,
    own: &str,
    order: &str,
) -> Result<Option<AdoptedEvent>, sqlx::Error> {
    let first = format!(
        "select id, created_at, event, tidings.utf8(left(name, 300)) from ({LOG}) as log where not published order by id {order} limit 1"
    );
    let first = query_of(names, in_names(names, &first))
        .bind(own)
        .fetch_optional(connection)
        .await?;
    let Some(first) = first else { return Ok(None) };
    Ok(Some(AdoptedEvent {
        id: first.try_get(0)?,
        at: moment(&first, 1)?,
        event: first.try_get(2)?,
        name: shown(&first, 3)?.unwrap_or_default(),
    }))
}

/// Returns a statement with the names of an outbox.
fn in_names(names: &Names, text: &str) -> sqlx::AssertSqlSafe<String> {
    // Safe: constants, a number from the database, and a checked identifier.
    sqlx::AssertSqlSafe(names.text(text, '.'))
}

impl From<sqlx::Error> for AdoptError {
    fn from(error: sqlx::Error) -> Self {
        use crate::outbox::store::Dialect;

        const LOCK_NOT_AVAILABLE: &str = "55P03";
        let code = error.as_database_error().and_then(|error| error.code());
        if code.is_some_and(|code| code == LOCK_NOT_AVAILABLE) {
            Self::InUse(error.into())
        } else if Postgres::is_missing_table(&error) {
            Self::NotMigrated(error.into())
        } else {
            Self::Database(error.into())
        }
    }
}
