//! The inbox: which events a subscriber has handled, remembered in the transaction of the handler's effect. Never
//! decides the outcome of a delivery, and never acknowledges one.

mod dead_lettered;
mod housekeeping;
mod idle_connections;
mod many;
mod once;
mod patience;
mod transaction;
mod version;

use std::{
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, Utc};
use tokio::sync::{Mutex, MutexGuard, Semaphore};
use uuid::Uuid;

use super::{
    Outbox, OutboxError, OutboxTransaction, Store,
    home::of_version,
    link::{self, Waits},
    store::{
        inbox::{Added, Memory, Remembered},
        inbox_ring::{self, Ring},
        sessions::Backend,
    },
};
use crate::{
    handler::context::Facts,
    policy::{
        failure::{Failure, Verdict},
        outcome::DeadLetter,
    },
};
use dead_lettered::Known;
pub(super) use idle_connections::{Concluded, IdleConnections};
pub use many::BatchTransactionalHandler;
pub use once::TransactionalHandler;
use patience::{again, in_begin_span, in_commit_span, patiently};
pub use transaction::InboxTransaction;
use version::VersionSeen;

/// How much longer than its handler's timeout a transaction may wait for its client.
const SPARE: Duration = Duration::from_secs(5);
/// The maximum that Postgres takes for this timeout: milliseconds in 31 bits.
const LONGEST_IDLE: Duration = Duration::from_millis(i32::MAX as u64);
/// How long to wait for a rollback, and then for a check that tells a slow statement from a lost server.
const ROLLBACK: Duration = Duration::from_secs(2);

/// The inbox of one database.
struct Inbox<DB: Store> {
    outbox: Outbox<DB>,
    /// The length of a period, as far as is known.
    slot_seconds: AtomicI64,
    /// Whether the database did not answer the last time.
    is_away: AtomicBool,
    /// Held by the one caller that asks an unavailable database.
    asking: Mutex<()>,
    /// When the tables were last found to be of this version.
    version: VersionSeen,
    /// Limits how many events are noted as dead-lettered at once.
    giving_up: Semaphore,
}

/// How the handling of a delivery begins.
enum Begun<DB: Store> {
    New(OutboxTransaction<DB>),
    Already,
    DeadLettered(DeadLetter),
}

impl<DB: Store> Inbox<DB> {
    fn new(outbox: Outbox<DB>) -> Self {
        Self {
            outbox,
            slot_seconds: AtomicI64::new(inbox_ring::DEFAULT_SECONDS),
            is_away: AtomicBool::new(false),
            asking: Mutex::new(()),
            version: VersionSeen::default(),
            giving_up: Semaphore::new(dead_lettered::AT_ONCE),
        }
    }

    /// Waits for this handler's turn to write, where the database has a single writer. Does not wait for a database
    /// that is unavailable.
    async fn writer(&self) -> Result<Option<MutexGuard<'_, ()>>, Failure> {
        if !DB::HAS_ONE_WRITER || self.is_away.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let writer = self.outbox.shared.writer.lock().await;
        match self.is_away.load(Ordering::Relaxed) {
            true => Err(Self::away()),
            false => Ok(Some(writer)),
        }
    }

    fn away() -> Failure {
        Failure::unavailable("the database is not available")
    }

    /// Begins a transaction that remembers the event.
    async fn begin(&self, facts: &Facts) -> Result<Begun<DB>, Failure> {
        let begun = self.ask(|| async {
            let mut tx = self.outbox.begin_to_remember().await?;
            let remembering = async {
                self.look_again(&mut tx).await?;
                let (remembered, period) = self.remember(&mut tx, facts).await?;
                let backend = remembered.backend;
                if remembered.added == Added::All {
                    return Ok((backend, Ok(None)));
                }
                if !remembered.ring.reaches(period) {
                    return Ok((backend, Err(remembered.ring)));
                }
                let memory = self.memory(facts, period, &[]);
                let known = self.known(&mut tx, &memory, facts).await?;
                Ok((backend, Ok(Some(known))))
            };
            let (backend, known) = match self.attend(remembering).await {
                Ok(known) => known,
                Err(error) => return Err(tx.lost(error)),
            };
            Ok(known.map(|known| match known {
                Some(Known::Handled) => Begun::Already,
                Some(Known::DeadLettered(letter)) => Begun::DeadLettered(letter),
                None | Some(Known::Reopened { .. }) => Begun::New(tx.of(backend)),
            }))
        });
        in_begin_span(begun).await?.map_err(|ring| {
            let event = time_of(facts, ring.slot_seconds);
            Failure::outside_inbox(outside(event, &ring))
        })
    }

    /// Asks the database to begin. While it is unavailable, one caller asks and the others fail at once: each that
    /// waits would take a concurrency slot from events that do not need the database.
    async fn ask<T, F>(&self, work: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, OutboxError>>,
    {
        let is_away = self.is_away.load(Ordering::Relaxed);
        let asking = is_away.then(|| self.asking.try_lock());
        if let Some(Err(_)) = asking {
            return Err(Self::away());
        }
        let done = again(|| async {
            let look = || self.outbox.look_at_version();
            self.version.once(look).await?;
            work().await
        })
        .await;
        // The database's own errors show that it is available.
        let is_away = |error: &OutboxError| matches!(error, OutboxError::Database(error) if error.sqlx().as_database_error().is_none());
        let is_away = done.as_ref().is_err_and(is_away);
        self.is_away.store(is_away, Ordering::Relaxed);
        done.map_err(|error| match &error {
            // Another transaction holds the event: this does not mean that the database is unavailable.
            OutboxError::Database(said) if DB::IS_REMOTE && DB::is_locked_out(said.sqlx()) => {
                Failure::unavailable(error).undecided()
            }
            _ => Failure::unavailable(error),
        })
    }

    /// Checks from time to time that the tables are still of this version: they may be migrated meanwhile.
    async fn look_again(&self, connection: &mut DB::Connection) -> Result<(), OutboxError> {
        if !self.version.is_due() {
            return Ok(());
        }
        let names = &self.outbox.shared.names;
        let found = DB::version(connection, names).await;
        let found = self.outbox.translated(found).await?;
        self.version.seen(of_version::<DB>(names, found))
    }

    /// Adds the event to the inbox; also returns the event's period.
    async fn remember(
        &self,
        connection: &mut DB::Connection,
        facts: &Facts,
    ) -> Result<(Remembered, i64), OutboxError> {
        let names = &self.outbox.shared.names;
        let event = [*facts.envelope.id().as_uuid()];
        loop {
            let slot_seconds = self.slot_seconds.load(Ordering::Relaxed);
            let period = period_of(facts, slot_seconds);
            let memory = self.memory(facts, period, &event);
            let remembering = DB::remember(connection, names, &memory).await;
            let remembered = self.outbox.translated(remembering).await?;
            if remembered.ring.slot_seconds == slot_seconds {
                return Ok((remembered, period));
            }
            let known = remembered.ring.slot_seconds;
            self.slot_seconds.store(known, Ordering::Relaxed);
        }
    }

    /// The period of an event, by the known period length.
    fn period(&self, facts: &Facts) -> i64 {
        let slot_seconds = self.slot_seconds.load(Ordering::Relaxed);
        period_of(facts, slot_seconds)
    }

    /// Events of one period, in the scope of this subscriber, by the known period length.
    fn memory<'a>(&self, facts: &'a Facts, period: i64, events: &'a [Uuid]) -> Memory<'a> {
        Memory {
            scope: scope_of(facts),
            slot_seconds: self.slot_seconds.load(Ordering::Relaxed),
            period,
            events,
            idle: idle(facts.timeout),
        }
    }

    /// Commits. A refusal of the database is the handler's failure. An unavailable database or a lost answer is not:
    /// the next delivery learns from the inbox whether the commit happened.
    async fn commit(&self, tx: OutboxTransaction<DB>) -> Result<(), Failure> {
        let waits = Waits::Statement(tx.backend());
        let committing = self.outbox.attend(waits, tx.conclude());
        let committed = patiently(async { committing.await.unwrap_or_else(|| Err(gone())) });
        match in_commit_span(committed).await.map_err(Self::blamed)? {
            true => Ok(()),
            false => Err(ended()),
        }
    }

    /// Classifies a database error: the handler's failure, or an unavailable database.
    fn blamed(error: OutboxError) -> Failure {
        match &error {
            // Only the connection is lost; the database may be available.
            _ if link::is_lost(&error) => Failure::unavailable(error).undecided(),
            OutboxError::Database(said) if DB::is_refusal(said.sqlx()) => Failure::retry(error),
            OutboxError::DuplicateId { .. } => Failure::retry(error),
            // Caused by a savepoint that the handler has dropped.
            OutboxError::RolledBack => Failure::retry(error),
            _ => Failure::unavailable(error),
        }
    }

    /// Rolls back after a failure. Returns the handler's failure, or `unavailable` when the database was lost.
    async fn roll_back(&self, tx: OutboxTransaction<DB>, failure: Failure) -> Failure {
        let backend = tx.backend();
        let rolled_back = tokio::time::timeout(ROLLBACK, tx.rollback()).await;
        let is_there = match rolled_back {
            Ok(Ok(())) => true,
            // The database may have rolled back before.
            Ok(Err(OutboxError::Database(error))) => !DB::is_lost(error.sqlx()),
            Ok(Err(_)) => false,
            // A statement of the handler may still be running.
            Err(_) => match tokio::time::timeout(ROLLBACK, self.let_go(backend)).await {
                Ok(Ok(true)) => true,
                Ok(Ok(false)) if failure.verdict != Verdict::Reject => {
                    return Failure::unavailable(gone()).undecided();
                }
                _ => false,
            },
        };
        if is_there || failure.verdict == Verdict::Reject {
            return failure;
        }
        Failure::unavailable(format!("the database was lost: {failure}"))
    }

    /// Waits for database work, and fails when its answer is lost.
    async fn attend<T>(
        &self,
        work: impl Future<Output = Result<T, OutboxError>>,
    ) -> Result<T, OutboxError> {
        let attended = self.outbox.attend(Waits::Statement(None), work);
        attended.await.unwrap_or_else(|| Err(gone()))
    }

    /// Waits for a handler, and fails when its transaction is lost meanwhile.
    async fn handled<T>(
        &self,
        backend: Option<Backend>,
        handling: impl Future<Output = Result<T, Failure>>,
    ) -> Result<Result<T, Failure>, Failure> {
        let handled = self.outbox.attend(Waits::Handler(backend), handling).await;
        handled.ok_or_else(|| Failure::unavailable(gone()).undecided())
    }

    /// Has the database end a transaction that does not answer, which releases its locks. Returns whether it was
    /// executing a statement, as far as can be known: otherwise the connection has lost its other end.
    async fn let_go(&self, backend: Option<Backend>) -> Result<bool, sqlx::Error> {
        if let Some(backend) = backend {
            return self.outbox.end_abandoned(backend).await;
        }
        let mut connection = self.outbox.connect().await?;
        sqlx::Connection::ping(&mut connection).await.map(|()| true)
    }
}

/// How long the transaction of a handler with this timeout may wait for its client.
fn idle(timeout: Duration) -> Duration {
    timeout.saturating_add(SPARE).min(LONGEST_IDLE)
}

/// The scope of the memory: each replay has its own.
fn scope_of(facts: &Facts) -> &str {
    match &facts.replay {
        Some(replay) => &replay.scope,
        None => &facts.subscriber,
    }
}

/// The time by which an event is remembered. In a replay it is the time of the replay: the event may be older than
/// the reach of the inbox.
fn time_of(facts: &Facts, slot_seconds: i64) -> DateTime<Utc> {
    match facts.replay_id() {
        Some(id) => id.made_at(),
        None => inbox_ring::time_of(&facts.envelope, facts.stored_at, slot_seconds),
    }
}

/// The period of an event.
fn period_of(facts: &Facts, slot_seconds: i64) -> i64 {
    inbox_ring::period_of(time_of(facts, slot_seconds), slot_seconds)
}

/// The failure of a handler that has kept its transaction.
fn leaked() -> Failure {
    Failure::retry(
        "the handler has returned while its transaction was still in use, so nothing was committed: do not move the \
         transaction into a task that outlives the handler",
    )
}

/// The failure of a handler that has ended its transaction.
fn ended() -> Failure {
    Failure::retry(
        "the handler has ended its transaction by a COMMIT or ROLLBACK of its own: its effects may be stored without \
         the inbox row of the event, or the inbox row without the effects. Leave commit and rollback to the result of \
         the handler; for a part that may fail, begin a transaction within it (`tx.begin()`, a savepoint)",
    )
}

/// The error of an event that is out of reach.
fn outside(event: DateTime<Utc>, ring: &Ring) -> String {
    let text = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    let (from, to) = ring.reach();
    format!(
        "the event is of {}, and the inbox remembers events from {} to {} only: the inbox cannot tell whether this \
         event was handled before. If it was not, publish it under a new id",
        text(event),
        text(from),
        text(to)
    )
}

/// The connection has lost its other end.
fn gone() -> OutboxError {
    OutboxError::database(link::lost())
}
