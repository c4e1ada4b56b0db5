//! What the preflight looks at in the database of an outbox. Never judges it.

use chrono::Utc;

use super::{Outbox, OutboxError, Store, operate::Operation};
use crate::policy::preflight::{DatabaseFigures, MissingRight, offset};

/// What was seen of a database.
pub(crate) struct SeenDatabase {
    pub(crate) figures: DatabaseFigures,
    /// The streams that hold events of the outbox.
    pub(crate) streams: Vec<String>,
}

impl<DB: Store> Outbox<DB> {
    /// Looks at the database; at other outboxes in it only where `sees_others`.
    pub(crate) async fn preflight(&self, sees_others: bool) -> Result<SeenDatabase, OutboxError> {
        let names = &self.shared.names;
        self.operate(Operation::One, async |connection: &mut DB::Connection| {
            let asked = Utc::now();
            let (mut figures, told) = DB::preflight(connection, names).await?;
            figures.ahead_s = told.map(|told| offset(asked, told, Utc::now()));
            figures.schema = names.schema().to_owned();
            let mut streams = Vec::new();
            if !figures.missing.iter().any(hides_relay) {
                let home = DB::home(connection, names).await?;
                streams.extend(home.streams.into_keys());
                figures.max_payload = DB::checked_payload(connection, names).await?;
            }
            if sees_others {
                figures.others = DB::other_outboxes(connection, names).await?;
            }
            Ok(SeenDatabase { figures, streams })
        })
        .await
    }
}

/// How much disk space the tables use.
#[cfg(feature = "ops")]
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// The bytes of each table.
    pub(crate) tables: Vec<(String, i64)>,
    /// By how many seconds the clock of the database is ahead of the one of this process; `None` where it is the same.
    pub(crate) ahead_s: Option<f64>,
}

#[cfg(feature = "ops")]
impl<DB: Store> Outbox<DB> {
    /// Measures the tables.
    pub(crate) async fn measure(&self) -> Result<Measured, OutboxError> {
        let names = &self.shared.names;
        self.operate(Operation::One, async |connection: &mut DB::Connection| {
            let asked = Utc::now();
            let (tables, told) = DB::sizes(connection, names).await?;
            let ahead_s = told.map(|told| offset(asked, told, Utc::now()));
            Ok(Measured { tables, ahead_s })
        })
        .await
    }
}

/// Whether the row of the relay cannot be read without this right.
fn hides_relay(right: &MissingRight) -> bool {
    right.privilege == "usage" && right.is_needed_at_once
        || right.privilege == "select" && right.relation == "relay"
}
