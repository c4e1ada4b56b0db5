//! The statements of the preflight. A file has no roles, and the clock of this host. Never judges what they return.

use chrono::{DateTime, Utc};
use sqlx::{Row as _, Sqlite, SqliteConnection};

#[cfg(feature = "ops")]
use crate::outbox::store::preflight::Sizes;
use crate::{
    outbox::store::{Names, preflight::PreflightStatements},
    policy::preflight::DatabaseFigures,
};

impl PreflightStatements for Sqlite {
    async fn preflight(
        _connection: &mut SqliteConnection,
        _names: &Names,
    ) -> Result<(DatabaseFigures, Option<DateTime<Utc>>), sqlx::Error> {
        let figures = DatabaseFigures {
            is_local: true,
            may_claim: true,
            ..DatabaseFigures::default()
        };
        Ok((figures, None))
    }

    #[cfg(feature = "ops")]
    async fn sizes(
        connection: &mut SqliteConnection,
        _names: &Names,
    ) -> Result<Sizes, sqlx::Error> {
        let size = "select page_count * page_size from pragma_page_count(), pragma_page_size()";
        let row = sqlx::query(size).fetch_one(connection).await?;
        Ok((vec![("database".to_owned(), row.try_get(0)?)], None))
    }

    async fn checked_payload(
        _connection: &mut SqliteConnection,
        _names: &Names,
    ) -> Result<Option<usize>, sqlx::Error> {
        Ok(None)
    }

    async fn other_outboxes(
        connection: &mut SqliteConnection,
        names: &Names,
    ) -> Result<Vec<(String, String)>, sqlx::Error> {
        const RELAY: &str = "_relay";
        let others = "select name from sqlite_master
            where type = 'table' and name like '%~_relay' escape '~' and sql like '%lease_until%'
            order by 1 limit 6";
        let others = sqlx::query(others).fetch_all(&mut *connection).await?;
        let mut found = Vec::new();
        for row in others {
            let table: String = row.try_get(0)?;
            let prefix = table.strip_suffix(RELAY).unwrap_or_default();
            let Ok(other) = Names::new(prefix) else {
                continue;
            };
            if prefix == names.schema() {
                continue;
            }
            let owner = "select owner from tidings_relay
                where owner is not null and lease_until > unixepoch('subsec') * 1000000";
            let owner = sqlx::query(other.sql(owner, '_'));
            if let Some(owner) = owner.fetch_optional(&mut *connection).await? {
                found.push((prefix.to_owned(), owner.try_get(0)?));
            }
        }
        Ok(found)
    }
}
