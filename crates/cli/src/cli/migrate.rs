//! `tidings migrate`: creates the outbox, or migrates it to this version.

use clap::Args;
use serde_json::json;
use sqlx::{Postgres, Sqlite};
use tidings::Outbox;

use super::{
    database::{Database, with_outbox},
    output,
    report::Outcome,
};
use crate::config::{Config, DatabaseUrl};

#[derive(Args)]
pub(super) struct Migrate {
    /// Print the statements for an empty database, for psql or sqlite3, and change nothing
    #[arg(long, conflicts_with = "json")]
    print: bool,
    /// Print the applied migrations as JSON
    #[arg(long)]
    json: bool,
}

impl Migrate {
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        if self.print {
            return print(config);
        }
        let database = Database::open_or_create(config).await?;
        let applied = with_outbox!(&database, outbox => outbox.migrate().await)?;
        if self.json {
            return Ok(output::json(&json!({ "applied": applied }))?);
        }
        if applied.is_empty() {
            output::line("nothing to do")?;
        }
        for migration in applied {
            output::line(format!("applied {migration}"))?;
        }
        Ok(())
    }
}

fn print(config: &Config) -> Outcome {
    let script = match config.database {
        DatabaseUrl::Postgres(_) => Outbox::<Postgres>::migration_sql(&config.schema),
        DatabaseUrl::Sqlite(_) => Outbox::<Sqlite>::migration_sql(&config.schema),
    };
    Ok(output::line(script?.trim_end())?)
}
