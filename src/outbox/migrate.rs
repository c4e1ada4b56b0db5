//! Migrates the tables of the outbox to this program's version. Forward only, in the outbox's own schema, and recorded
//! there: independent of the application's migrations.

use super::{DatabaseError, Outbox, Store, store::Names};
use crate::schema::SchemaError;

/// Why the tables could not be migrated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// The tables belong to a newer version of Tidings.
    #[error("the outbox is at version {found}, this program knows {known}: use a newer Tidings")]
    Newer {
        /// The version in the database.
        found: i32,
        /// The newest version that this program knows.
        known: usize,
    },
    /// A statement failed; nothing of the migration was kept.
    #[error("migration {migration} of the outbox failed")]
    Failed {
        /// The migration.
        migration: &'static str,
        /// The error of the database.
        #[source]
        source: DatabaseError,
    },
    /// Another transaction held a lock until the wait timed out; nothing of the migration was kept.
    #[error("{by}")]
    Locked {
        /// The holder, in readable form.
        by: String,
        /// The error of the database.
        #[source]
        source: DatabaseError,
    },
    /// The database cannot be used.
    #[error("the database cannot be migrated")]
    Database(#[source] DatabaseError),
}

impl From<sqlx::Error> for MigrateError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl<DB: Store> Outbox<DB> {
    /// Returns what [`Outbox::migrate`] does to a database without an outbox, as text for `psql` or `sqlite3`: one
    /// transaction that also records the migrations, so that `migrate` finds nothing to do afterwards. `schema` is what
    /// [`Outbox::in_schema`] takes, `tidings` by default.
    ///
    /// # Errors
    /// [`SchemaError`] when the name is not a plain identifier.
    pub fn migration_sql(schema: &str) -> Result<String, SchemaError> {
        let names = Names::new(schema)?;
        let mut script = format!("{};\n\n{}\n", DB::BEGIN, DB::migration_preamble(&names));
        for (position, migration) in DB::MIGRATIONS.iter().enumerate() {
            let record = format!(
                "insert into {} (version, name) values ({}, '{}');",
                DB::text(&names, DB::MIGRATION_TABLE),
                position + 1,
                migration.name
            );
            let statements = DB::text(&names, migration.sql);
            script += &format!("\n{}\n\n{record}\n", statements.trim_end());
        }
        Ok(script + "\ncommit;\n")
    }

    /// Migrates the tables to this program's version: each missing migration in its own transaction. Several processes
    /// may call it at once. Returns the names of the migrations that were run.
    ///
    /// # Errors
    /// [`MigrateError`]; the database is then at the last migration that succeeded.
    ///
    /// # Cancel safety
    /// When the future is dropped, each migration has happened as a whole, or not at all. Calling it again runs the rest.
    pub async fn migrate(&self) -> Result<Vec<&'static str>, MigrateError> {
        match self.migrate_one_by_one().await {
            Err(MigrateError::Database(source) | MigrateError::Failed { source, .. })
                if DB::is_locked_out(source.sqlx()) =>
            {
                let by = self.locked_by().await;
                Err(MigrateError::Locked { by, source })
            }
            done => done,
        }
    }

    async fn migrate_one_by_one(&self) -> Result<Vec<&'static str>, MigrateError> {
        let names = &self.shared.names;
        let mut applied = Vec::new();
        loop {
            let next = async |connection: &mut DB::Connection| {
                let version = DB::begin_migration(connection, names).await?;
                let position = usize::try_from(version).unwrap_or(0);
                let known = names.version::<DB>();
                if position > known {
                    return Err(MigrateError::Newer {
                        found: version,
                        known,
                    });
                }
                let Some(migration) = names.migrations::<DB>().nth(position) else {
                    return Ok(None);
                };
                DB::apply_migration(connection, names, version + 1, migration)
                    .await
                    .map_err(|source| MigrateError::Failed {
                        migration: migration.name,
                        source: source.into(),
                    })?;
                Ok(Some(migration.name))
            };
            let Some(migration) = self.in_transaction(DB::BEGIN_OWN, next).await? else {
                return Ok(applied);
            };
            tracing::info!(migration, database = DB::KIND, "outbox migrated");
            applied.push(migration);
        }
    }
}
