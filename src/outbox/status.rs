//! How an outbox stands, in figures. Never judges them.

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Loss, Outbox, OutboxError, Store};

/// How an outbox stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// Events that are committed and not confirmed by a checkpoint yet.
    pub backlog: u64,
    /// The age of the oldest of them, in seconds.
    pub oldest_unpublished_seconds: Option<f64>,
    /// Who relays.
    pub lease: LeaseStatus,
    /// The last batch that the ledger knows.
    pub last_batch: Option<LastBatch>,
    /// Events that were put aside because NATS will never take them, and what follows them.
    pub parked: u64,
    /// Events that are published later.
    pub delayed: u64,
    /// When the next of them is due, in seconds from now; negative when it should have been moved already.
    pub next_due_seconds: Option<f64>,
    /// Why no relay runs on this database, and what to do, when that is so: it is a copy, or a standby.
    pub refuses: Option<String>,
    /// How many of them wait for a stream or a subject: they go back by themselves, with what follows them.
    pub waiting: u64,
    /// What hinders the relay now, as it has last said.
    pub troubles: Vec<Trouble>,
    /// Slots of the log that should be free, and the transactions that hold them: only freeing waits for those. Also
    /// the table of delayed events, when some are due and transactions have cancelled events there and not ended: the
    /// move of those, and of the later ones of their keys, waits for them.
    pub held: Vec<HeldSlot>,
    /// Streams that have lost what they had confirmed, or may have, until somebody has seen to it.
    pub losses: Vec<Loss>,
}

/// A transaction that holds a slot of the log, or another table of the outbox.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HeldSlot {
    /// The table.
    pub slot: String,
    /// The server process; `None` for a prepared transaction.
    pub pid: Option<i32>,
    /// What the client calls itself.
    pub application: Option<String>,
    /// What the client does, such as `idle in transaction`; `None` without the right to know.
    pub state: Option<String>,
    /// How long the transaction runs, in seconds; `None` without the right to know.
    pub age_seconds: Option<f64>,
    /// Its statement, or the last one, at most 200 characters; `None` without the right to know.
    pub query: Option<String>,
}

/// `tidings.relay by pid 7 psql, idle in transaction, for 10.5 s: lock table ...`
impl fmt::Display for HeldSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by ", self.slot)?;
        match self.pid {
            Some(pid) => write!(f, "pid {pid}")?,
            None => f.write_str("a prepared transaction")?,
        }
        let application = self.application.as_deref().unwrap_or_default();
        if !application.is_empty() {
            write!(f, " {application}")?;
        }
        if let Some(state) = &self.state {
            write!(f, ", {state}")?;
        }
        if let Some(age) = self.age_seconds {
            write!(f, ", for {age:.1} s")?;
        }
        match self.query.as_deref() {
            None | Some("") => Ok(()),
            Some(query) => write!(f, ": {query}"),
        }
    }
}

/// Something that hinders the relay.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Trouble {
    /// What is concerned: `relay`, `stream EVENTS` or `subject user.created`.
    pub place: String,
    /// Since when.
    pub since: DateTime<Utc>,
    /// What is wrong.
    pub cause: String,
    /// What helps.
    pub cure: String,
}

/// What hinders the relay, as the database keeps it: an object with a member for each place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredTrouble {
    pub(super) since: DateTime<Utc>,
    pub(super) cause: String,
    pub(super) cure: String,
}

pub(super) fn troubles_from(text: &str) -> Result<Vec<Trouble>, sqlx::Error> {
    let stored: BTreeMap<String, StoredTrouble> =
        serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(error.into()))?;
    let troubles = stored.into_iter().map(|(place, trouble)| Trouble {
        place,
        since: trouble.since,
        cause: trouble.cause,
        cure: trouble.cure,
    });
    Ok(troubles.collect())
}

/// Who relays.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LeaseStatus {
    /// The owner; `None` before the first, and after a clean stop.
    pub owner: Option<String>,
    /// How often the lease was claimed; a claim follows every fault.
    pub epoch: i64,
    /// How long the lease lasts without renewal, in seconds; negative when it is over.
    pub remaining_seconds: f64,
    /// How long it lasts from each renewal, in seconds: within that time a stand-by replaces an owner that
    /// died. 0 while nobody has it.
    pub lasts_seconds: f64,
}

/// A confirmed batch.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LastBatch {
    /// When it was confirmed.
    pub at: DateTime<Utc>,
    /// How many events.
    pub events: u64,
    /// The stream.
    pub stream: String,
    /// The sequence of its last event.
    pub last_sequence: u64,
}

impl<DB: Store> Outbox<DB> {
    /// How the outbox stands. Counts the backlog, which takes a moment when it has millions.
    ///
    /// # Errors
    /// [`OutboxError::NotMigrated`] without tables, else [`OutboxError::Database`].
    pub async fn status(&self) -> Result<Status, OutboxError> {
        let mut connection = self.acquire().await?;
        let names = &self.shared.names;
        let looking = async {
            let origin = DB::origin(&mut connection, names).await?;
            let status = DB::status(&mut connection, names).await?;
            Ok(Status {
                held: DB::held(&mut connection, names).await?,
                refuses: origin.refusal(),
                ..status
            })
        };
        let status = looking.await;
        self.end(connection, status).await
    }
}
