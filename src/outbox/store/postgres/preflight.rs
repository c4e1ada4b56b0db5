//! The statements of the preflight. Never judges what they return.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, Row as _};

use super::statement_scope::{fetch_all, fetch_one, fetch_optional, query};
#[cfg(feature = "ops")]
use crate::outbox::store::preflight::Sizes;
use crate::{
    outbox::store::{Names, preflight::PreflightStatements},
    policy::preflight::{DatabaseFigures, MissingRight},
};

/// A setting of one role or one connection concerns no other one.
const FIGURES: &str = "select current_user::text,
    coalesce((select rolsuper from pg_roles where rolname = current_user), false),
    coalesce(inet_server_addr() <<= inet '127.0.0.0/8' or inet_server_addr() = inet '::1', true),
    exists (
        select from pg_settings
        where name = 'default_transaction_read_only' and setting = 'on'
          and source in ('environment variable', 'configuration file', 'command line', 'global', 'database')
    ),
    extract(epoch from clock_timestamp())::float8,
    has_schema_privilege($1, 'usage')";

/// What a relay needs and this role lacks; the last column says whether a relay needs it to begin. `case`, since the
/// server may call a function for rows that another condition of `and` leaves out, and fails for a table that is no
/// sequence.
const MISSING: &str = "with needed (relation, privilege, at_once) as (
    values ('relay', 'select', true), ('relay', 'update', true), ('outbox', 'select', true),
        ('ledger', 'select', true), ('ledger', 'insert', true), ('parked', 'select', true),
        ('delayed', 'select', true), ('delayed', 'delete', false), ('outbox', 'insert', false),
        ('parked', 'insert', false), ('parked', 'update', false), ('parked', 'delete', false)
), relations as (
    select class.oid, class.relname::text as relation, class.relkind
    from pg_class as class join pg_namespace as namespace on namespace.oid = class.relnamespace
    where namespace.nspname = $1
)
select needed.relation, needed.privilege, needed.at_once
from needed join relations on relations.relation = needed.relation
where not has_table_privilege(relations.oid, needed.privilege)
union all
select split_part(relation, '_', 1) || '_*', 'truncate', false
from relations
where case when relation ~ '^(outbox|ledger)_[0-9]+$' and relkind = 'r'
           then not has_table_privilege(oid, 'truncate') end
group by 1
union all
select relation, 'usage', false
from relations
where case when relation = 'outbox_id' and relkind = 'S' then not has_sequence_privilege(oid, 'usage') end
order by 3 desc, 1, 2";

/// The outbox may share its schema with tables of the application. A partition that is dropped meanwhile has no size.
#[cfg(feature = "ops")]
const SIZES: &str = "select known.name, sum(pg_total_relation_size(class.oid))::int8,
        extract(epoch from clock_timestamp())::float8
    from pg_class as class
    join pg_namespace as namespace on namespace.oid = class.relnamespace
    join unnest(array['outbox', 'ledger', 'parked', 'delayed', 'inbox', 'relay']) as known (name)
      on class.relname::text ~ ('^' || known.name || '(_[0-9]+)?$')
    where namespace.nspname = $1 and class.relkind in ('r', 'p')
    group by known.name
    having sum(pg_total_relation_size(class.oid)) is not null
    order by known.name";

/// Schemas that have a relay of an outbox which this role may read.
const OTHERS: &str = "select namespace.nspname::text
    from pg_class as class join pg_namespace as namespace on namespace.oid = class.relnamespace
    where class.relname = 'relay' and class.relkind = 'r' and namespace.nspname <> $1
      and exists (select from pg_attribute where attrelid = class.oid and attname = 'lease_until')
      and has_schema_privilege(namespace.oid, 'usage') and has_table_privilege(class.oid, 'select')
    order by 1 limit 5";

impl PreflightStatements for Postgres {
    async fn preflight(
        connection: &mut PgConnection,
        names: &Names,
    ) -> Result<(DatabaseFigures, Option<DateTime<Utc>>), sqlx::Error> {
        let schema = names.schema();
        let row = fetch_one(connection, names, query(names, FIGURES).bind(schema)).await?;
        let mut figures = DatabaseFigures {
            role: row.try_get(0)?,
            is_superuser: row.try_get(1)?,
            is_local: row.try_get(2)?,
            is_read_only: row.try_get(3)?,
            ..DatabaseFigures::default()
        };
        #[allow(clippy::cast_possible_truncation)] // a time
        let micros = (row.try_get::<f64, _>(4)? * 1e6) as i64;
        if !row.try_get::<bool, _>(5)? {
            figures.missing.push(MissingRight {
                relation: format!("schema {schema}"),
                privilege: "usage".to_owned(),
                is_needed_at_once: true,
            });
        }
        let missing = fetch_all(connection, names, query(names, MISSING).bind(schema)).await?;
        for row in missing {
            figures.missing.push(MissingRight {
                relation: row.try_get(0)?,
                privilege: row.try_get(1)?,
                is_needed_at_once: row.try_get(2)?,
            });
        }
        let claims = |right: &MissingRight| right.relation == "relay";
        figures.may_claim = !figures.missing.iter().any(claims);
        Ok((figures, DateTime::from_timestamp_micros(micros)))
    }

    #[cfg(feature = "ops")]
    async fn sizes(connection: &mut PgConnection, names: &Names) -> Result<Sizes, sqlx::Error> {
        let (mut tables, mut told) = (Vec::new(), None);
        let sizes = query(names, SIZES).bind(names.schema());
        for row in fetch_all(connection, names, sizes).await? {
            tables.push((row.try_get(0)?, row.try_get(1)?));
            #[allow(clippy::cast_possible_truncation)] // a time
            let micros = (row.try_get::<f64, _>(2)? * 1e6) as i64;
            told = DateTime::from_timestamp_micros(micros);
        }
        Ok((tables, told))
    }

    async fn checked_payload(
        connection: &mut PgConnection,
        names: &Names,
    ) -> Result<Option<usize>, sqlx::Error> {
        let checked = query(names, "select max_payload from tidings.relay");
        let checked: i32 = fetch_one(connection, names, checked).await?.try_get(0)?;
        Ok(usize::try_from(checked).ok())
    }

    async fn other_outboxes(
        connection: &mut PgConnection,
        names: &Names,
    ) -> Result<Vec<(String, String)>, sqlx::Error> {
        let mut found = Vec::new();
        let others = query(names, OTHERS).bind(names.schema());
        for row in fetch_all(connection, names, others).await? {
            let schema: String = row.try_get(0)?;
            // A name that no outbox can have belongs to another program.
            let Ok(other) = Names::new(&schema) else {
                continue;
            };
            let other = other.pooled(names.is_pooled());
            let owner = "select owner from tidings.relay
                where owner is not null and lease_until > clock_timestamp()";
            let owner = fetch_optional(connection, &other, query(&other, owner)).await?;
            if let Some(owner) = owner {
                found.push((schema, owner.try_get(0)?));
            }
        }
        Ok(found)
    }
}
