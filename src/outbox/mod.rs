//! The outbox: events that commit with the state change, and the relay that moves them into the stream. The only module
//! that names sqlx.
//!
//! * [`Outbox`]: begins a transaction that publishes, or enqueues in a transaction of the caller.
//! * [`InboxTransaction`]: the transaction of a handler whose effects commit once per event.
//! * [`Relay`]: moves committed events into the stream, in order, once.
//! * [`Store`]: the two databases, Postgres and SQLite.

#[cfg(feature = "postgres")]
mod adopt;
mod delayed;
mod distinct;
#[cfg(test)]
mod fuzz;
mod history;
mod home;
mod inbox;
mod lane;
mod link;
mod losses;
mod migrate;
#[cfg(feature = "sqlite")]
mod open;
mod operate;
mod page_size;
mod parked;
pub(crate) mod preflight;
mod relay;
mod republish;
mod status;
mod store;
mod transaction;
mod wake;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use sqlx::{Connection, Pool};
use tidings_contract::{Envelope, EnvelopeError, EventId, IntoEnvelope, wire};

pub use crate::database_error::DatabaseError;
pub use crate::schema::SchemaError;
use crate::{
    handler::context,
    nats::{Bus, TooLarge, check_size},
};
use distinct::distinct;
pub(crate) use history::passed_pages::{PassedPage, WantsWhole};
pub(crate) use history::traced::StreamSequence;
pub use home::{ElsewhereError, NatsMove};
use home::{of_version, version_sentence};
use inbox::IdleConnections;
pub use inbox::{BatchTransactionalHandler, InboxTransaction, TransactionalHandler};
use link::{Link, Waits};
pub(crate) use losses::state_of;
pub use migrate::MigrateError;
#[cfg(feature = "failpoints")]
pub use relay::failpoint;
pub use relay::{DatabaseKind, Relay, RelayError, RelayHandle, RelayInstance, RelaySettings};
pub use republish::RepublishError;
pub(crate) use republish::{Chosen, Ends, Sender, Sending, Streams};
#[cfg(feature = "failpoints")]
use store::Migration;
use store::Names;
pub use store::Store;
use store::chunks::chunks;
pub use store::delayed::DelayedEvent;
pub use store::diagnosis::Diagnosis;
pub(crate) use store::ledger::{LedgerKind, Passed, PassedQuery, Range, Relayed};
pub(crate) use store::losses::Settled;
pub use store::losses::{Loss, StreamState};
pub use store::parked::{ParkedEvent, ParkedSelection};
#[cfg(feature = "postgres")]
pub use store::postgres::{AdoptError, AdoptedEvent, Adoption};
pub(crate) use store::row::Row;
pub use store::status::{HeldSlot, Issue, LastBatch, LeaseStatus, Status};
pub(crate) use store::trace::{TraceQuery, TracedBatch, TracedRow, TracedState, Wanted};
pub(crate) use store::{Entry, Position};
pub use transaction::OutboxTransaction;
use wake::Wake;

/// The time limit for finding out what is behind an error.
const SOON: Duration = Duration::from_secs(3);

/// The default `max_payload` of a nats-server, in bytes.
const DEFAULT_MAX_PAYLOAD: usize = 1024 * 1024;

/// The outbox in one database. Cheap to clone; clones share the pool and the relay's wake-up.
///
/// `DB` is `sqlx::Postgres` or `sqlx::Sqlite`.
pub struct Outbox<DB: Store> {
    shared: Arc<Shared<DB>>,
}

struct Shared<DB: Store> {
    pool: Pool<DB>,
    names: Names,
    source: String,
    max_payload: AtomicUsize,
    wake: Wake,
    /// Queues the handlers of this process where the database has one writer at a time.
    writer: Arc<tokio::sync::Mutex<()>>,
    /// Idle connections that handlers keep between two transactions.
    idle_connections: IdleConnections<DB>,
    link: Link,
    enqueued: Arc<AtomicU64>,
}

/// Why an event was not written to the outbox, or a transaction not committed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutboxError {
    /// The event itself is not valid.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The event is larger than the server accepts.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// Two events that are written together have the same id. None of the events is written.
    #[error("{event} is the id of two events, {first} and {second}: give each an id of its own")]
    DuplicateId {
        /// The id.
        event: EventId,
        /// The name and the key of the first event.
        first: String,
        /// The name and the key of the second event.
        second: String,
    },
    /// A delayed event has the id of one that is delayed already. None of the events is written.
    #[error(
        "{} is already delayed: cancel the delayed event first, or give the new event an id of its own",
        event.map_or_else(|| "one of the events".to_owned(), |event| event.to_string())
    )]
    AlreadyDelayed {
        /// The id, when a single event was written.
        event: Option<EventId>,
        /// The error of the database.
        #[source]
        source: DatabaseError,
    },
    /// The tables are missing.
    #[error("the database has no outbox: run `tidings migrate`, or call `Outbox::migrate`")]
    NotMigrated(#[source] DatabaseError),
    /// Another transaction held a lock until the wait timed out.
    #[error("{by}")]
    Locked {
        /// The holder, in readable form: process, application, since when, and the statement.
        by: String,
        /// The error of the database.
        #[source]
        source: DatabaseError,
    },
    /// A savepoint within the transaction was dropped before the database had answered, so sqlx has rolled back the
    /// whole transaction. Nothing is committed.
    #[error(
        "the transaction was rolled back when a savepoint within it was dropped before the database had answered: \
         repeat its work in a new transaction"
    )]
    RolledBack,
    /// The tables belong to a newer or an older version of Tidings.
    #[error("{}", version_sentence(*found, *known, *is_newer))]
    Version {
        /// The version of the tables.
        found: usize,
        /// The version that this program knows.
        known: usize,
        /// Whether the tables are newer.
        is_newer: bool,
    },
    /// This is not the NATS that the outbox is relayed into, or NATS does not answer.
    #[error(transparent)]
    Elsewhere(#[from] ElsewhereError),
    /// The database failed. After a failed commit the transaction may or may not be committed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl OutboxError {
    /// The error of a statement or a connection that needs no further explanation.
    fn database(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl<DB: Store> Outbox<DB> {
    /// Creates the outbox in this database, in the schema `tidings` (SQLite: tables that begin with `tidings_`).
    ///
    /// Behind a pooler that gives each transaction another connection, such as pgbouncer in transaction mode, build the
    /// pool with `statement_cache_capacity(0)`, in a URL `statement-cache-capacity=0`: the outbox then uses no prepared
    /// statements and runs each statement in a transaction.
    #[must_use]
    pub fn new(pool: Pool<DB>) -> Self {
        let options = pool.connect_options();
        let is_pooled = DB::is_pooled(&options);
        if let Some(host) = DB::plain_link(&options) {
            tracing::warn!(
                host,
                cure = "sslmode=verify-full&sslrootcert=FILE behind the database's URL",
                "database encryption not required: events and the password may be sent in clear text"
            );
        }
        Self {
            shared: Arc::new(Shared {
                pool,
                names: Names::default().pooled(is_pooled),
                source: wire::DEFAULT_SOURCE.to_owned(),
                max_payload: AtomicUsize::new(DEFAULT_MAX_PAYLOAD),
                wake: Wake::default(),
                writer: Arc::default(),
                idle_connections: IdleConnections::default(),
                link: Link::default(),
                enqueued: Arc::default(),
            }),
        }
    }

    /// Uses another schema (SQLite: another prefix) instead of `tidings`.
    ///
    /// # Errors
    /// [`SchemaError`] when the name is not a plain identifier, or is a reserved word of SQL.
    pub fn in_schema(self, schema: &str) -> Result<Self, SchemaError> {
        let names = Names::new(schema)?;
        Ok(self.rebuilt(|shared| shared.names = names.pooled(shared.names.is_pooled())))
    }

    /// Adds a migration after those of this version, for tests of upgrades.
    #[cfg(feature = "failpoints")]
    #[doc(hidden)]
    #[must_use]
    pub fn with_later_migration(self, name: &'static str, sql: &'static str) -> Self {
        let later: &'static [Migration] = Box::leak(Box::new([Migration { name, sql }]));
        self.rebuilt(|shared| shared.names = shared.names.clone().with_later(later))
    }

    /// Sets the service's name: the `ce-source` of events that have none; default `tidings`.
    #[must_use]
    pub fn source(self, source: impl Into<String>) -> Self {
        let source = source.into();
        self.rebuilt(|shared| shared.source = source)
    }

    /// Sends a hint to the relay, wherever it runs, after each commit. Without it, a relay in another process finds new
    /// events by polling. Also takes over the server's size limit.
    #[must_use]
    pub fn notify_via(self, bus: &Bus) -> Self {
        let outbox = self.rebuilt(|shared| shared.wake = Wake::over(bus, shared.names.schema()));
        outbox.learn_limit(bus);
        outbox
    }

    /// Refuses events above this size, in bytes, headers and payload together; default 1 MiB, the server's default. A
    /// relay in this process and [`Outbox::notify_via`] set it to the server's limit.
    #[must_use]
    pub fn max_payload(self, bytes: usize) -> Self {
        self.shared.max_payload.store(bytes, Ordering::Relaxed);
        self
    }

    /// Begins a transaction. Publish in it and commit: either all of its events are in the outbox, or none.
    ///
    /// # Errors
    /// [`OutboxError::Database`] when the pool gives no connection.
    ///
    /// # Cancel safety
    /// May be dropped at any time: no connection of the pool is left in a transaction. The futures that end the
    /// transaction may be dropped, too; whether a dropped commit has taken effect is unknown.
    pub async fn begin(&self) -> Result<OutboxTransaction<DB>, OutboxError> {
        let begun = self.begin_on(self.leased().await, DB::BEGIN);
        begun
            .await
            .map(|tx| OutboxTransaction::new(tx, self.clone()))
            .map_err(OutboxError::database)
    }

    /// Begins a transaction that records an event in the inbox.
    async fn begin_to_remember(&self) -> Result<OutboxTransaction<DB>, OutboxError> {
        let begun = self.attend(Waits::Statement(None), self.shared.idle_connections.begin());
        match begun.await {
            Some(Some(begun)) => {
                let (tx, taken) = begun.map_err(OutboxError::database)?;
                return Ok(OutboxTransaction::new(tx, self.clone()).taken(taken));
            }
            Some(None) => {}
            None => return Err(OutboxError::database(link::lost())),
        }
        let begun = self.begin_attended(DB::BEGIN_TO_REMEMBER).await;
        begun
            .map(|tx| OutboxTransaction::new(tx, self.clone()))
            .map_err(OutboxError::database)
    }

    /// Writes an event in a transaction that the caller owns and commits.
    ///
    /// For order by key, enqueue *after* the statement that locks the entity of the event;
    /// [`OutboxTransaction::publish`] does so by itself. The relay is not notified of the commit: up to 50 ms may pass
    /// while it is busy, up to 250 ms while it is idle.
    ///
    /// # Errors
    /// [`OutboxError`]; the database then decides the state of the transaction: in Postgres it is aborted.
    ///
    /// # Cancel safety
    /// When the future is dropped, the event may or may not be part of the transaction: roll it back.
    pub async fn enqueue(
        &self,
        tx: &mut sqlx::Transaction<'_, DB>,
        event: impl IntoEnvelope,
    ) -> Result<EventId, OutboxError> {
        let envelope = self.checked(event)?;
        if !context::suppresses(1) {
            self.insert(tx, std::slice::from_ref(&envelope)).await?;
            self.shared.wake.local();
        }
        Ok(envelope.id())
    }

    /// Writes events in a transaction that the caller owns and commits, in their order: one statement for up to a
    /// thousand events. Otherwise as [`Outbox::enqueue`].
    ///
    /// # Errors
    /// [`OutboxError`]; when an event is not valid, or two of them have the same id, none was written. The same event
    /// twice is written once.
    ///
    /// # Cancel safety
    /// When the future is dropped, any number of the events may be part of the transaction: roll it back.
    pub async fn enqueue_all<E: IntoEnvelope>(
        &self,
        tx: &mut sqlx::Transaction<'_, DB>,
        events: impl IntoIterator<Item = E>,
    ) -> Result<Vec<EventId>, OutboxError> {
        let mut envelopes = self.all_checked(events)?;
        let ids = envelopes.iter().map(Envelope::id).collect();
        distinct(&mut envelopes, &[])?;
        if !context::suppresses(envelopes.len()) {
            self.insert(tx, &envelopes).await?;
            self.shared.wake.local();
        }
        Ok(ids)
    }

    /// Returns the pool that the outbox was created with.
    #[must_use]
    pub fn pool(&self) -> &Pool<DB> {
        &self.shared.pool
    }

    /// Whether, by the pool's options, a pooler gives each transaction another connection. The application's own
    /// statements must then run in a transaction, too, and with sqlx's `persistent(false)`.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        self.shared.names.is_pooled()
    }

    /// Returns the event as it will be written, or why it is refused.
    fn checked(&self, event: impl IntoEnvelope) -> Result<Envelope, OutboxError> {
        let envelope = context::inherit(event.into_envelope()?);
        let defaults = wire::Defaults::new(&self.shared.source, chrono::Utc::now());
        let limit = self.shared.max_payload.load(Ordering::Relaxed);
        check_size(&envelope, defaults, limit)?;
        Ok(envelope)
    }

    /// Returns the events as they will be written, or why one of them is refused.
    fn all_checked<E: IntoEnvelope>(
        &self,
        events: impl IntoIterator<Item = E>,
    ) -> Result<Vec<Envelope>, OutboxError> {
        events
            .into_iter()
            .map(|event| self.checked(event))
            .collect()
    }

    /// Writes events, one statement per chunk.
    async fn insert(
        &self,
        connection: &mut DB::Connection,
        envelopes: &[Envelope],
    ) -> Result<(), OutboxError> {
        for chunk in chunks(envelopes, |envelope| envelope.payload().len()) {
            let inserted = DB::insert(connection, &self.shared.names, chunk).await;
            self.translated(inserted).await?;
        }
        self.has_enqueued(envelopes.len());
        Ok(())
    }

    /// Translates the error of an operation. After a lock timeout it looks up the holder while the lock is still held.
    async fn explained(&self, error: sqlx::Error) -> OutboxError {
        if !DB::is_locked_out(&error) {
            return self.translate(error).await;
        }
        let by = self.locked_by().await;
        OutboxError::Locked {
            by,
            source: error.into(),
        }
    }

    /// Translates the error of a statement, if it failed.
    async fn translated<T>(&self, said: Result<T, sqlx::Error>) -> Result<T, OutboxError> {
        match said {
            Ok(done) => Ok(done),
            Err(error) => Err(self.translate(error).await),
        }
    }

    /// Translates the error of a statement. When a table or column is missing, the tables may have another version than
    /// at this program's last check.
    async fn translate(&self, error: sqlx::Error) -> OutboxError {
        if !DB::is_missing_table(&error) {
            return OutboxError::database(error);
        }
        let looking = async {
            let mut connection = self.connect().await?;
            DB::version(&mut connection, &self.shared.names).await
        };
        let found = tokio::time::timeout(SOON, looking).await;
        let Ok(Ok(Err(other))) =
            found.map(|found| found.map(|found| of_version::<DB>(&self.shared.names, found)))
        else {
            return OutboxError::NotMigrated(error.into());
        };
        tracing::debug!(%error, "table version mismatch");
        other
    }

    /// Describes who holds a lock, if that can be found out within `SOON`.
    async fn locked_by(&self) -> String {
        let asking = async {
            let mut connection = self.connect().await?;
            DB::locked_by(&mut connection, &self.shared.names).await
        };
        match tokio::time::timeout(SOON, asking).await {
            Ok(Ok(by)) => by,
            failed => {
                tracing::debug!(?failed, "lock holder unknown");
                "the outbox is locked by an unknown transaction".to_owned()
            }
        }
    }

    /// Opens a connection outside the pool that waits for a lock no longer than this.
    async fn connect_for(&self, wait: Duration) -> Result<DB::Connection, sqlx::Error> {
        let mut connection = self.connect().await?;
        DB::bound_waits(&mut connection, &self.shared.names, wait).await?;
        Ok(connection)
    }

    /// Opens a connection outside the pool, for long use: it must neither take a connection from the service's handlers
    /// nor lose one to them.
    async fn connect(&self) -> Result<DB::Connection, sqlx::Error> {
        DB::Connection::connect_with(&self.shared.pool.connect_options()).await
    }

    fn learn_limit(&self, bus: &Bus) {
        let limit = bus.max_payload();
        self.shared.max_payload.store(limit, Ordering::Relaxed);
    }

    /// Returns the same outbox with one setting changed. Only for building: earlier clones keep their settings.
    fn rebuilt(self, change: impl FnOnce(&mut Shared<DB>)) -> Self {
        let mut shared = Shared {
            pool: self.shared.pool.clone(),
            names: self.shared.names.clone(),
            source: self.shared.source.clone(),
            max_payload: AtomicUsize::new(self.shared.max_payload.load(Ordering::Relaxed)),
            wake: self.shared.wake.clone(),
            writer: Arc::clone(&self.shared.writer),
            idle_connections: IdleConnections::default(),
            link: Link::default(),
            enqueued: Arc::clone(&self.shared.enqueued),
        };
        change(&mut shared);
        Self {
            shared: Arc::new(shared),
        }
    }
}

impl<DB: Store> Clone for Outbox<DB> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<DB: Store> std::fmt::Debug for Outbox<DB> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox")
            .field("database", &DB::KIND)
            .field("schema", &self.shared.names.schema())
            .finish_non_exhaustive()
    }
}
