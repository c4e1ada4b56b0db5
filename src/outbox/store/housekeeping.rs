//! The statements that free old rows. Never frees a row that the cursor has not passed.

use std::time::Duration;

use super::{Names, relay::RelayStatements, status::HeldSlot};

/// The result of freeing old rows.
#[derive(Debug, Default)]
pub struct Reclaimed {
    /// What was freed, if anything.
    pub freed: Option<String>,
    /// The slots that should be free, and the transactions that hold them.
    pub held: Vec<HeldSlot>,
    /// What an operator has to do so that the storage fits the retention.
    pub advice: Option<String>,
}

/// How long the ledger records where an event went: longer than any outbox keeps the event.
pub(in crate::outbox) const LEDGER_RETENTION: Duration = Duration::from_secs(14 * 86_400);

/// The statements that free old rows.
pub trait HousekeepingStatements: RelayStatements {
    /// Frees events that the cursor has passed and that are older than `retention`, and ledger entries older than
    /// [`LEDGER_RETENTION`]; returns what was freed, if anything.
    fn reclaim(
        connection: &mut Self::Connection,
        names: &Names,
        cursor: &Self::Cursor,
        retention: Duration,
    ) -> impl Future<Output = Result<Reclaimed, sqlx::Error>> + Send;

    /// Returns the slots that should be free but are held by transactions.
    fn held(
        _connection: &mut Self::Connection,
        _names: &Names,
    ) -> impl Future<Output = Result<Vec<HeldSlot>, sqlx::Error>> + Send {
        std::future::ready(Ok(Vec::new()))
    }
}
