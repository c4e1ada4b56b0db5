//! The outbox on PostgreSQL 14 or newer: an insert-only log in a ring of partitions, and a cursor that is a snapshot.
//! Needs neither superuser nor extensions.

/// Begins a transaction that holds only statements of Tidings, so nothing but the network delays the next statement. A
/// failed host, or a broken link to it, closes no connection: after this timeout the server ends the transaction and
/// releases its locks.
macro_rules! begin_own {
    ($then:literal) => {
        concat!(
            "begin; set local idle_in_transaction_session_timeout = '15s'",
            $then
        )
    };
}

pub(in crate::outbox) mod adopt;
mod checkpoint;
mod columns;
mod delayed;
mod disk;
mod fetch;
mod holders;
mod home;
mod inbox;
mod log;
mod losses;
mod origin;
mod parked;
mod preflight;
mod reclaim;
mod relayed;
mod republish;
mod sessions;
mod slots;
mod statement_scope;
mod status;
mod tls;
mod traced;

use std::{collections::HashSet, time::Duration};

use sqlx::{PgConnection, Postgres, Row as _, postgres::PgConnectOptions};
use tidings_contract::{Envelope, EventId};

use super::{
    Bound, Checkpoint, Claim, Dialect, HousekeepingStatements, Migration, MigrationStatements,
    Names, Page, Parked, ParkedStatements, Reclaimed, RelayStatements, Rows, SessionStatements,
    StatusStatements, Tenure, Waiting, Written,
    origin::Origin,
    parked::{BlockedOn, Extent, ParkedEvent, ParkedSelection, ParkedSize},
    positions_from,
    sessions::{Backend, Session},
    status::{HeldSlot, Status},
};
pub use adopt::{AdoptError, AdoptedEvent, Adoption};
use fetch::{PagePosition, PgCursor};
use origin::SYSTEM;
use statement_scope::{execute, fetch_optional, query, query_of};

/// An arbitrary number that no other program may use; the lock is released with the transaction.
const LOCK_MIGRATIONS: &str = "select pg_advisory_xact_lock(7163384699739271)";

impl Dialect for Postgres {
    const KIND: &'static str = "postgres";
    const BEGIN: &'static str = "begin";
    const BEGIN_OWN: &'static str = begin_own!("");
    const HAS_ONE_WRITER: bool = false;
    const IS_REMOTE: bool = true;
    const BEGIN_TO_LOOK: Option<&'static str> = Some(begin_own!("; set local lock_timeout = '5s'"));

    fn is_pooled(options: &PgConnectOptions) -> bool {
        statement_scope::is_pooled(options)
    }

    fn is_missing_table(error: &sqlx::Error) -> bool {
        const UNDEFINED_TABLE: &str = "42P01";
        const UNDEFINED_SCHEMA: &str = "3F000";
        // Missing when the last migrations were not run.
        const UNDEFINED_COLUMN: &str = "42703";
        const UNDEFINED_FUNCTION: &str = "42883";
        error
            .as_database_error()
            .and_then(|error| error.code())
            .is_some_and(|code| {
                let undefined = [UNDEFINED_TABLE, UNDEFINED_SCHEMA, UNDEFINED_COLUMN];
                undefined.contains(&&*code) || code == UNDEFINED_FUNCTION
            })
    }

    fn is_locked_out(error: &sqlx::Error) -> bool {
        slots::is_in_use(error)
    }

    fn plain_link(options: &PgConnectOptions) -> Option<String> {
        tls::plain_link(options)
    }

    fn text(names: &Names, statement: &str) -> String {
        names.text(statement, '.')
    }
}

impl MigrationStatements for Postgres {
    const MIGRATION_TABLE: &'static str = "tidings.migration";
    const MIGRATIONS: &'static [Migration] = &[Migration {
        name: "0001_outbox",
        sql: include_str!("../../../migrations/postgres/0001_outbox.sql"),
    }];

    fn migration_preamble(names: &Names) -> String {
        format!("{LOCK_MIGRATIONS};\n{}", create_migration_table(names))
    }

    async fn begin_migration(
        connection: &mut PgConnection,
        names: &Names,
    ) -> Result<i32, sqlx::Error> {
        query(names, LOCK_MIGRATIONS)
            .execute(&mut *connection)
            .await?;
        // From here on wait for another migration at most, not for application transactions that hold a table.
        sqlx::raw_sql("set local lock_timeout = '5s'")
            .execute(&mut *connection)
            .await?;
        let exists = query(names, "select to_regclass($1) is not null")
            .bind(names.text("tidings.migration", '.'))
            .fetch_one(&mut *connection)
            .await?;
        if !exists.try_get::<bool, _>(0)? {
            sqlx::raw_sql(sqlx::AssertSqlSafe(create_migration_table(names)))
                .execute(&mut *connection)
                .await?;
        }
        let version = "select coalesce(max(version), 0) from tidings.migration";
        query(names, version)
            .fetch_one(connection)
            .await?
            .try_get(0)
    }

    async fn apply_migration(
        connection: &mut PgConnection,
        names: &Names,
        version: i32,
        migration: &Migration,
    ) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(names.sql(migration.sql, '.'))
            .execute(&mut *connection)
            .await?;
        let record = "insert into tidings.migration (version, name) values ($1, $2)";
        query(names, record)
            .bind(version)
            .bind(migration.name)
            .execute(connection)
            .await
            .map(drop)
    }
}

impl RelayStatements for Postgres {
    type Cursor = PgCursor;

    async fn origin(connection: &mut PgConnection, names: &Names) -> Result<Origin, sqlx::Error> {
        origin::origin(connection, names).await
    }

    async fn claim(
        connection: &mut PgConnection,
        names: &Names,
        owner: &str,
        lease: Duration,
    ) -> Result<Option<Claim<PgCursor>>, sqlx::Error> {
        let claim = "update tidings.relay
            set owner = $1,
                epoch = epoch + 1,
                lease_until = clock_timestamp() + make_interval(secs => $2),
                checkpointed_at = clock_timestamp()
            where owner = $1 or lease_until < clock_timestamp()
            returning epoch, cursor::text, id_floor, page_snapshot::text, page_id, streams::text,
                extract(epoch from pg_postmaster_start_time())::text, issues::text";
        let row = fetch_optional(
            connection,
            names,
            query(names, claim).bind(owner).bind(lease.as_secs_f64()),
        )
        .await?;
        let Some(row) = row else { return Ok(None) };
        let page: (Option<String>, Option<i64>) = (row.try_get(3)?, row.try_get(4)?);
        Ok(Some(Claim {
            epoch: row.try_get(0)?,
            cursor: PgCursor {
                seen: row.try_get(1)?,
                floor: row.try_get(2)?,
                page: page
                    .0
                    .zip(page.1)
                    .map(|(snapshot, last_id)| PagePosition { snapshot, last_id }),
                server: row.try_get(6)?,
            },
            streams: positions_from(&row.try_get::<String, _>(5)?)?,
            issues: row.try_get(7)?,
        }))
    }

    async fn checkpoint(
        connection: &mut PgConnection,
        names: &Names,
        tenure: &Tenure,
        checkpoint: &Checkpoint<PgCursor>,
    ) -> Result<Option<Written>, sqlx::Error> {
        checkpoint::checkpoint(connection, names, tenure, checkpoint).await
    }

    async fn write_issues(
        connection: &mut PgConnection,
        names: &Names,
        owner: &str,
        issues: &str,
    ) -> Result<(), sqlx::Error> {
        // Never in a copy: `adopt` needs the age of the row there.
        let write_issues = format!(
            "update tidings.relay set issues = $2::text::jsonb
            where (owner = $1 or lease_until < clock_timestamp()) and issues is distinct from $2::text::jsonb
              and system = {SYSTEM}"
        );
        // Safe: constants and a checked identifier.
        let write_issues = sqlx::AssertSqlSafe(names.text(&write_issues, '.'));
        execute(
            connection,
            names,
            query_of(names, write_issues).bind(owner).bind(issues),
        )
        .await
        .map(drop)
    }

    async fn note_limit(
        connection: &mut PgConnection,
        names: &Names,
        max_payload: usize,
    ) -> Result<(), sqlx::Error> {
        let note = "update tidings.relay set max_payload = $1 where max_payload <> $1";
        execute(
            connection,
            names,
            query(names, note).bind(i32::try_from(max_payload).unwrap_or(i32::MAX)),
        )
        .await
        .map(drop)
    }

    async fn release(
        connection: &mut PgConnection,
        names: &Names,
        tenure: &Tenure,
    ) -> Result<(), sqlx::Error> {
        let release = "update tidings.relay set owner = null, lease_until = '-infinity'
            where owner = $1 and epoch = $2";
        execute(
            connection,
            names,
            query(names, release).bind(&tenure.owner).bind(tenure.epoch),
        )
        .await
        .map(drop)
    }

    async fn fetch(
        connection: &mut PgConnection,
        names: &Names,
        cursor: &PgCursor,
        bound: Bound,
    ) -> Result<Page<PgCursor>, sqlx::Error> {
        fetch::page(connection, names, cursor, bound).await
    }

    async fn ahead(
        connection: &mut PgConnection,
        names: &Names,
        cursor: &PgCursor,
        ids: &[i64],
    ) -> Result<HashSet<i64>, sqlx::Error> {
        relayed::ahead(connection, names, cursor, ids).await
    }
}

impl ParkedStatements for Postgres {
    async fn park(
        connection: &mut PgConnection,
        names: &Names,
        rows: &[Parked],
    ) -> Result<(), sqlx::Error> {
        parked::park(connection, names, rows).await
    }

    async fn parked_keys(
        connection: &mut PgConnection,
        names: &Names,
    ) -> Result<Vec<(String, i64)>, sqlx::Error> {
        parked::keys(connection, names).await
    }

    async fn waiting(connection: &mut PgConnection, names: &Names) -> Result<Waiting, sqlx::Error> {
        parked::waiting(connection, names).await
    }

    async fn returning(
        connection: &mut PgConnection,
        names: &Names,
        open: &[BlockedOn],
        behind: i64,
        bound: Bound,
    ) -> Result<Rows, sqlx::Error> {
        parked::returning(connection, names, open, behind, bound).await
    }

    async fn parked_among(
        connection: &mut PgConnection,
        names: &Names,
        events: &[EventId],
        behind: i64,
    ) -> Result<Rows, sqlx::Error> {
        parked::among(connection, names, events, behind).await
    }

    async fn parked_sizes(
        connection: &mut PgConnection,
        names: &Names,
        selection: &ParkedSelection,
        behind: i64,
        limit: u32,
    ) -> Result<Vec<ParkedSize>, sqlx::Error> {
        parked::sizes(connection, names, selection, behind, limit).await
    }

    async fn parked(
        connection: &mut PgConnection,
        names: &Names,
        ids: &[i64],
        extent: Extent,
    ) -> Result<Vec<ParkedEvent>, sqlx::Error> {
        parked::list(connection, names, ids, extent).await
    }

    async fn unpark(
        connection: &mut PgConnection,
        names: &Names,
        selection: &ParkedSelection,
    ) -> Result<u64, sqlx::Error> {
        parked::unpark(connection, names, selection).await
    }

    async fn discard(
        connection: &mut PgConnection,
        names: &Names,
        ids: &[i64],
        extent: Extent,
    ) -> Result<Vec<ParkedEvent>, sqlx::Error> {
        parked::discard(connection, names, ids, extent).await
    }
}

impl HousekeepingStatements for Postgres {
    async fn reclaim(
        connection: &mut PgConnection,
        names: &Names,
        cursor: &PgCursor,
        retention: Duration,
    ) -> Result<Reclaimed, sqlx::Error> {
        reclaim::oldest_slots(connection, names, cursor, retention).await
    }

    async fn held(
        connection: &mut PgConnection,
        names: &Names,
    ) -> Result<Vec<HeldSlot>, sqlx::Error> {
        reclaim::held(connection, names).await
    }
}

impl SessionStatements for Postgres {
    async fn has_room(connection: &mut PgConnection, names: &Names) -> Result<(), sqlx::Error> {
        disk::has_room(connection, names).await
    }

    async fn bound_waits(
        connection: &mut PgConnection,
        names: &Names,
        wait: Duration,
    ) -> Result<(), sqlx::Error> {
        holders::bound_waits(connection, names, wait).await
    }

    async fn locked_by(
        connection: &mut PgConnection,
        names: &Names,
    ) -> Result<String, sqlx::Error> {
        holders::locked_by(connection, names).await
    }

    async fn sessions(
        connection: &mut PgConnection,
        names: &Names,
    ) -> Result<Vec<Session>, sqlx::Error> {
        sessions::sessions(connection, names).await
    }

    async fn end_session(
        connection: &mut PgConnection,
        backend: Backend,
    ) -> Result<bool, sqlx::Error> {
        sessions::end_session(connection, backend).await
    }
}

impl StatusStatements for Postgres {
    async fn status(connection: &mut PgConnection, names: &Names) -> Result<Status, sqlx::Error> {
        status::status(connection, names).await
    }
}

/// Schema and table are checked first: `create` needs the right to create even when the object exists.
fn create_migration_table(names: &Names) -> String {
    let table = "create table if not exists tidings.migration (
    version    integer     primary key,
    name       text        not null,
    applied_at timestamptz not null default clock_timestamp()
);";
    let schema = names.schema();
    let table = names.text(table, '.');
    format!("create schema if not exists {schema};\n{table}")
}

/// No envelope has a higher version.
fn version_of(envelope: &Envelope) -> i32 {
    i32::try_from(envelope.version()).unwrap_or(i32::MAX)
}
