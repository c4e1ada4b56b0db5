//! Connections that pass from one handler's transaction to the next without the pool. The pool would check that a
//! connection is alive whenever it takes one back or hands one out, and roll back what is open. Never keeps a
//! connection for long from callers that wait at the pool.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sqlx::Connection;
use tokio::{runtime::Handle, time::Instant};

use super::ROLLBACK;
use crate::{
    error_text::said,
    outbox::{
        Store,
        store::{inbox::InboxStatements, leased_connection::LeasedConnection},
    },
};

/// How long a connection passes from handler to handler before it returns to the pool, for callers that wait there.
const TOGETHER: Duration = Duration::from_millis(50);
/// How long a connection waits for the next handler.
const IDLE: Duration = Duration::from_millis(5);

/// Connections between two transactions.
pub(in crate::outbox) struct IdleConnections<DB: Store>(Arc<Mutex<Inner<DB>>>);

struct Inner<DB: Store> {
    /// The most recently used one is last.
    resting: Vec<Resting<DB>>,
    /// Whether a minder runs that releases idle connections.
    is_minded: bool,
}

struct Resting<DB: Store> {
    connection: Concluded<DB>,
    /// When the pool handed it out.
    taken: Instant,
    since: Instant,
}

/// A transaction that the client takes for open, and that the database has ended or is about to end.
pub(in crate::outbox) struct Concluded<DB: Store>(Option<LeasedConnection<DB>>);

impl<DB: Store> IdleConnections<DB> {
    /// Begins a transaction on a stored connection, if there is one; also returns when the pool handed it out.
    pub(in crate::outbox) async fn begin(
        &self,
    ) -> Option<Result<(LeasedConnection<DB>, Instant), sqlx::Error>> {
        while let Some(Resting {
            mut connection,
            taken,
            ..
        }) = self.next()
        {
            let Some(tx) = &mut connection.0 else {
                continue;
            };
            let begun = DB::say(tx.asked(), DB::BEGIN_TO_REMEMBER).await;
            match tx.heard(begun) {
                Ok(()) => return connection.0.take().map(|tx| Ok((tx, taken))),
                Err(error) if !DB::is_lost(&error) => return Some(Err(error)),
                // The server has closed it meanwhile; the pool has others.
                Err(error) => {
                    tracing::debug!(error = said(&error), "idle connection lost")
                }
            }
        }
        None
    }

    /// Stores a connection, unless it has been away from the pool for too long.
    pub(in crate::outbox) fn keep(&self, connection: Concluded<DB>, taken: Instant) {
        let since = Instant::now();
        if since - taken >= TOGETHER {
            return;
        }
        let mut inner = lock(&self.0);
        inner.resting.push(Resting {
            connection,
            taken,
            since,
        });
        let was_minded = std::mem::replace(&mut inner.is_minded, true);
        // When the runtime is ending, `spawn` drops the minder at once, and its `drop` takes this lock.
        drop(inner);
        if !was_minded {
            let minder = Minder {
                idle_connections: Arc::clone(&self.0),
                is_over: false,
            };
            tokio::spawn(minder.mind());
        }
    }

    fn next(&self) -> Option<Resting<DB>> {
        lock(&self.0).resting.pop()
    }
}

impl<DB: Store> Default for IdleConnections<DB> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            resting: Vec::new(),
            is_minded: false,
        })))
    }
}

/// Releases connections that no handler needs.
struct Minder<DB: Store> {
    idle_connections: Arc<Mutex<Inner<DB>>>,
    is_over: bool,
}

impl<DB: Store> Minder<DB> {
    /// Ends with the last connection.
    async fn mind(mut self) {
        while !self.is_over {
            tokio::time::sleep(IDLE).await;
            let now = Instant::now();
            let is_idle = |resting: &mut Resting<DB>| now - resting.since >= IDLE;
            let mut inner = lock(&self.idle_connections);
            let idle: Vec<_> = inner.resting.extract_if(.., is_idle).collect();
            self.is_over = inner.resting.is_empty();
            inner.is_minded = !self.is_over;
            drop(inner);
            drop(idle);
        }
    }
}

impl<DB: Store> Drop for Minder<DB> {
    fn drop(&mut self) {
        if !self.is_over {
            lock(&self.idle_connections).is_minded = false;
        }
    }
}

impl<DB: Store> Concluded<DB> {
    pub(in crate::outbox) fn new(tx: LeasedConnection<DB>) -> Self {
        Self(Some(tx))
    }

    /// Commits, as [`InboxStatements::conclude`].
    pub(in crate::outbox) async fn conclude(&mut self) -> Result<bool, sqlx::Error> {
        match &mut self.0 {
            Some(tx) => {
                let concluded = DB::conclude(tx.asked()).await;
                tx.heard(concluded)
            }
            None => Ok(false),
        }
    }

    /// Rolls back, whatever the client takes for open.
    pub(in crate::outbox) async fn roll_back(&mut self) -> Result<(), sqlx::Error> {
        match &mut self.0 {
            Some(tx) => {
                let rolled_back = DB::say(tx.asked(), "rollback").await;
                tx.heard(rolled_back)
            }
            None => Ok(()),
        }
    }
}

/// Returns the connection to the pool with a transaction open, since the client rolls one back. Without one the
/// database would refuse that rollback, or warn of it.
impl<DB: Store> Drop for Concluded<DB> {
    fn drop(&mut self) {
        let Some(mut tx) = self.0.take() else { return };
        // A connection with an unanswered statement is closed; without a runtime, every connection is.
        let Some(runtime) = Handle::try_current().ok().filter(|_| !tx.is_unknown()) else {
            return;
        };
        runtime.spawn(async move {
            let parting = tokio::time::timeout(ROLLBACK, part(tx.asked())).await;
            if parting.is_ok() {
                // Any answer will do. A lost connection is found by the pool.
                let _ = tx.heard(Ok(()));
            }
        });
    }
}

async fn part<C: Connection<Database: InboxStatements<Connection = C>>>(connection: &mut C) {
    // A plain `begin` waits for no lock.
    if let Err(error) = C::Database::say(connection, "begin").await {
        // A transaction is already open, then.
        tracing::debug!(
            error = said(&error),
            "begin refused: the connection returns to the pool"
        );
    }
    // After a handler's savepoint was refused or cut off, the client counts one transaction too few.
    if !connection.is_in_transaction()
        && let Err(error) = C::Database::say(connection, "rollback").await
    {
        tracing::debug!(
            error = said(&error),
            "rollback refused: the connection returns to the pool"
        );
    }
}

fn lock<T>(inner: &Mutex<T>) -> MutexGuard<'_, T> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}
