//! Connections on their way from one handler's transaction to the next one's, without the pool between: it asks the
//! database whether a connection is alive each time it takes one back, and each time it gives one, and has what is
//! open rolled back. Never keeps one for long from those who wait for it at the pool.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sqlx::Connection;
use tokio::{runtime::Handle, time::Instant};

use super::{ROLLBACK, Remember};
use crate::{
    error_text::said,
    outbox::{Store, taken::Taken},
};

/// For how long a connection goes from handler to handler before it returns to the pool: whoever waits there gets it
/// then.
const TOGETHER: Duration = Duration::from_millis(50);
/// For how long one waits for the next handler.
const IDLE: Duration = Duration::from_millis(5);

/// What is between two transactions.
pub(in crate::outbox) struct Kept<DB: Store>(Arc<Mutex<Inner<DB>>>);

struct Inner<DB: Store> {
    /// The one that had a transaction last at the end.
    resting: Vec<Resting<DB>>,
    /// Whether somebody will let go of what nobody has needed.
    is_minded: bool,
}

struct Resting<DB: Store> {
    connection: Concluded<DB>,
    /// When the pool gave it.
    taken: Instant,
    since: Instant,
}

/// A transaction that the client thinks is open, and the database has ended, or is about to.
pub(in crate::outbox) struct Concluded<DB: Store>(Option<Taken<DB>>);

impl<DB: Store> Kept<DB> {
    /// Begins a transaction on a connection that is kept, if there is one; also says when the pool gave it.
    pub(in crate::outbox) async fn begin(
        &self,
    ) -> Option<Result<(Taken<DB>, Instant), sqlx::Error>> {
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

    /// Keeps a connection, unless it has been away from the pool for long.
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
        // A runtime that ends drops the minder, which wants it, before it is spawned.
        drop(inner);
        if !was_minded {
            let minder = Minder {
                kept: Arc::clone(&self.0),
                is_over: false,
            };
            tokio::spawn(minder.mind());
        }
    }

    fn next(&self) -> Option<Resting<DB>> {
        lock(&self.0).resting.pop()
    }
}

impl<DB: Store> Default for Kept<DB> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            resting: Vec::new(),
            is_minded: false,
        })))
    }
}

/// Whoever lets go of what nobody needs.
struct Minder<DB: Store> {
    kept: Arc<Mutex<Inner<DB>>>,
    is_over: bool,
}

impl<DB: Store> Minder<DB> {
    /// Ends with the last connection.
    async fn mind(mut self) {
        while !self.is_over {
            tokio::time::sleep(IDLE).await;
            let now = Instant::now();
            let is_idle = |resting: &mut Resting<DB>| now - resting.since >= IDLE;
            let mut inner = lock(&self.kept);
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
            lock(&self.kept).is_minded = false;
        }
    }
}

impl<DB: Store> Concluded<DB> {
    pub(in crate::outbox) fn new(tx: Taken<DB>) -> Self {
        Self(Some(tx))
    }

    /// Commits, as [`Remember::conclude`].
    pub(in crate::outbox) async fn conclude(&mut self) -> Result<bool, sqlx::Error> {
        match &mut self.0 {
            Some(tx) => {
                let concluded = DB::conclude(tx.asked()).await;
                tx.heard(concluded)
            }
            None => Ok(false),
        }
    }

    /// Rolls back, whatever the client thinks is open.
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

/// Goes back to the pool with something open, which the client rolls back: it would say so of nothing, too, and that
/// is refused, or warned of.
impl<DB: Store> Drop for Concluded<DB> {
    fn drop(&mut self) {
        let Some(mut tx) = self.0.take() else { return };
        // What is unanswered is closed, and without a runtime everything is.
        let Some(runtime) = Handle::try_current().ok().filter(|_| !tx.is_unknown()) else {
            return;
        };
        runtime.spawn(async move {
            let parting = tokio::time::timeout(ROLLBACK, part(tx.asked())).await;
            if parting.is_ok() {
                // Whatever was said, it was an answer, or the pool will find out.
                let _ = tx.heard(Ok(()));
            }
        });
    }
}

async fn part<C: Connection<Database: Remember<Connection = C>>>(connection: &mut C) {
    // A plain one waits for nobody.
    if let Err(error) = C::Database::say(connection, "begin").await {
        // Something is open, then.
        tracing::debug!(
            error = said(&error),
            "begin refused: the connection returns to the pool"
        );
    }
    // A savepoint of the handler's that was refused, or cut off, has had the client count one less.
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
