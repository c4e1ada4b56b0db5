//! The transactions that hold tables of the outbox: process, application, since when, and the last statement. Never
//! ends a transaction.

use std::time::Duration;

use sqlx::{PgConnection, Row as _, postgres::PgRow};

use super::statement_scope::{fetch_all, fetch_one, query, query_of};
use crate::outbox::store::{Names, status::HeldSlot};

/// The facts about a transaction. The statement is cut, and put on one line.
const FACTS: &str = "lock.pid, activity.application_name, activity.state,
    date_part('epoch', clock_timestamp() - activity.xact_start) as age,
    left(regexp_replace(activity.query, '[[:space:]]+', ' ', 'g'), 200) as statement";

/// Transactions that have held or awaited a lock in this database for more than a moment.
const LOCKS: &str =
    "pg_locks as lock left join pg_stat_activity as activity on activity.pid = lock.pid
    where lock.locktype = 'relation'
      and lock.database = (select oid from pg_database where datname = current_database())
      and lock.pid is distinct from pg_backend_pid()
      and coalesce(activity.xact_start < clock_timestamp() - interval '1 second', true)";

/// Returns the transactions that have held a table for more than a moment.
pub(super) async fn holders(
    connection: &mut PgConnection,
    names: &Names,
    table: &str,
) -> Result<Vec<HeldSlot>, sqlx::Error> {
    let ask = format!(
        "select {FACTS} from {LOCKS} and lock.granted and lock.relation = '{table}'::regclass
        order by activity.xact_start"
    );
    let table = names.text(table, '.');
    // Safe: constants, a number and a checked identifier.
    let ask = sqlx::AssertSqlSafe(names.text(&ask, '.'));
    let rows = fetch_all(connection, names, query_of(names, ask)).await?;
    rows.iter().map(|row| held(row, table.clone())).collect()
}

/// Returns the transactions that have been writing to the delayed events for more than a moment: until they end, the
/// events that they cancel are not moved, nor are the later events of those keys.
pub(super) async fn of_delayed(
    connection: &mut PgConnection,
    names: &Names,
) -> Result<Vec<HeldSlot>, sqlx::Error> {
    let due = "select exists (select from tidings.delayed where due < clock_timestamp() - interval '1 second')";
    let row = fetch_one(connection, names, query(names, due)).await?;
    if !row.try_get::<bool, _>(0)? {
        return Ok(Vec::new());
    }
    let ask = format!(
        "select {FACTS} from {LOCKS} and lock.granted and lock.relation = 'tidings.delayed'::regclass
          and lock.mode <> 'AccessShareLock'
        order by activity.xact_start"
    );
    // Safe: constants and a checked identifier.
    let ask = sqlx::AssertSqlSafe(names.text(&ask, '.'));
    let rows = fetch_all(connection, names, query_of(names, ask)).await?;
    let table = names.text("tidings.delayed", '.');
    rows.iter().map(|row| held(row, table.clone())).collect()
}

/// Returns the transactions that block the tables of the outbox, the root cause first: a transaction that has a table
/// exclusively; one that holds a table for which another transaction waits; one that waits for an exclusive lock, which
/// blocks all later ones; otherwise one that has locked rows. A transaction that waits for one of these is no cause:
/// ending it does not help. One line for each transaction, with all its tables; a partition counts as its table.
async fn lockers(
    connection: &mut PgConnection,
    names: &Names,
) -> Result<Vec<HeldSlot>, sqlx::Error> {
    let ask = format!(
        "with lock as materialized (
            select {FACTS}, lock.granted, lock.relation, activity.xact_start,
                (select relname::text from pg_class
                 where oid = coalesce(pg_partition_root(relation.oid)::oid, relation.oid)) as relname,
                lock.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') as is_strong,
                lock.mode in ('RowShareLock', 'RowExclusiveLock') as has_rows
            from pg_class as relation, {LOCKS} and lock.relation = relation.oid and relation.relkind in ('r', 'p')
              and relation.relnamespace = (select oid from pg_namespace where nspname = $1)
        ), waiting as materialized (
            -- a prepared transaction is number 0 there
            select one.pid from (select distinct pid from lock where pid is not null) as one
            where exists (select from unnest(pg_blocking_pids(one.pid)) as blocker
                          where blocker in (select coalesce(pid, 0) from lock))
        ), ranked as (
            select *, case
                when is_strong and granted then 0
                when granted and relation in (select relation from lock where is_strong and not granted)
                     and not exists (select from waiting where waiting.pid = lock.pid) then 1
                when is_strong then 2
                when has_rows and granted and relname in ('relay', 'parked', 'delayed', 'migration')
                     and not exists (select from waiting where waiting.pid = lock.pid) then 3
                end as rank
            from lock
        )
        select pid, application_name, state, max(age), statement, array_agg(distinct relname) as tables
        from ranked
        where rank is not null and (rank < 3 or not exists (select from ranked where rank < 3))
        group by pid, application_name, state, statement
        order by min(rank), min(xact_start) limit 5"
    );
    // Safe: constants; the schema is bound.
    let ask = sqlx::AssertSqlSafe(ask);
    let rows = fetch_all(connection, names, query_of(names, ask).bind(names.schema())).await?;
    let held = rows.iter().map(|row| {
        let tables: Vec<String> = row.try_get("tables")?;
        let schema = names.schema();
        let tables: Vec<String> = tables
            .iter()
            .map(|table| format!("{schema}.{table}"))
            .collect();
        held(row, tables.join(", "))
    });
    held.collect()
}

/// Describes these transactions.
pub(super) async fn locked_by(
    connection: &mut PgConnection,
    names: &Names,
) -> Result<String, sqlx::Error> {
    let lockers = lockers(connection, names).await?;
    let lockers: Vec<String> = lockers.iter().map(ToString::to_string).collect();
    Ok(match &lockers[..] {
        [] => "a table of the outbox was locked by a transaction that has ended meanwhile".into(),
        lockers => format!("the outbox is locked: {}", lockers.join("; ")),
    })
}

/// Limits how long the connection waits for a lock, and how long the server waits for a host that is gone while it
/// sends rows: otherwise a quarter of an hour, with locks on the tables that it reads. Not behind a pooler, where the
/// settings would stay with a connection of other clients.
pub(super) async fn bound_waits(
    connection: &mut PgConnection,
    names: &Names,
    wait: Duration,
) -> Result<(), sqlx::Error> {
    if names.is_pooled() {
        return Ok(());
    }
    let wait = wait.as_millis().clamp(1, 2_147_483_647);
    // Safe: a constant and a number.
    let set = sqlx::AssertSqlSafe(format!(
        "set lock_timeout = {wait}; set tcp_user_timeout = '15s'; \
            set tcp_keepalives_idle = 10; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 3"
    ));
    sqlx::raw_sql(set).execute(connection).await.map(drop)
}

fn held(row: &PgRow, table: String) -> Result<HeldSlot, sqlx::Error> {
    Ok(HeldSlot {
        slot: table,
        pid: row.try_get(0)?,
        application: row.try_get(1)?,
        state: row.try_get(2)?,
        age_seconds: row.try_get(3)?,
        query: row.try_get(4)?,
    })
}
