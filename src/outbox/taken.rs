//! A connection of the service's pool, while the outbox has it. Goes back whole, or not at all; never decides what is
//! asked on it.
//!
//! sqlx counts a transaction once its beginning is answered. A future that is dropped before, because a caller, a
//! timeout or a select has had enough, leaves a `begin` on its way and the count at nothing: the connection goes back
//! to the pool, and what the service writes on it next is part of a transaction that nobody ends. So nothing is begun
//! or ended here but by way of [`Taken`], which knows whether the last answer came, and closes the connection when it
//! did not. This costs no task and no round trip.

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use sqlx::{Connection, Pool, SqlSafeStr, pool::PoolConnection};
use sqlx_core::transaction::TransactionManager;
use tokio::runtime::Handle;

use super::{Outbox, OutboxError, Store};

/// How long the database may take to answer on a connection that goes back. The pool itself would wait for as long as
/// the kernel believes in the connection, with a place of the pool in its hands.
const RETURN: Duration = Duration::from_secs(5);

/// A connection, and perhaps a transaction on it, which is rolled back unless it is committed.
pub(super) struct Taken<DB: Store> {
    connection: PoolConnection<DB>,
    /// Something was asked whose answer decides in which state the connection is, and it has not come.
    is_asked: bool,
    /// A transaction was begun here and has not ended.
    is_open: bool,
}

impl<DB: Store> Taken<DB> {
    pub(super) async fn from(pool: &Pool<DB>) -> Result<Self, sqlx::Error> {
        Ok(Self {
            connection: pool.acquire().await?,
            is_asked: false,
            is_open: false,
        })
    }

    /// With a transaction on it.
    pub(super) async fn begin(
        pool: &Pool<DB>,
        statement: &'static str,
    ) -> Result<Self, sqlx::Error> {
        let mut taken = Self::from(pool).await?;
        taken.open(statement).await?;
        Ok(taken)
    }

    /// Begins a transaction. A connection on which that fails is closed.
    pub(super) async fn open(&mut self, statement: &'static str) -> Result<(), sqlx::Error> {
        let statement = Some(statement.into_sql_str());
        self.is_asked = true;
        DB::TransactionManager::begin(&mut self.connection, statement).await?;
        self.is_asked = false;
        self.is_open = true;
        Ok(())
    }

    /// Commits, if a transaction is open.
    pub(super) async fn commit(mut self) -> Result<(), sqlx::Error> {
        if !self.is_open {
            return Ok(());
        }
        self.is_asked = true;
        let committed = DB::TransactionManager::commit(&mut self.connection).await;
        self.heard(committed)?;
        self.is_open = false;
        Ok(())
    }

    /// Rolls back, if a transaction is open, and waits until that is done.
    #[cfg(feature = "postgres")]
    pub(super) async fn roll_back(&mut self) -> Result<(), sqlx::Error> {
        if !self.is_open {
            return Ok(());
        }
        self.is_asked = true;
        let rolled_back = DB::TransactionManager::rollback(&mut self.connection).await;
        self.heard(rolled_back)?;
        self.is_open = false;
        Ok(())
    }

    /// For something whose answer decides in which state the connection is: [`Taken::heard`] has to follow, or the
    /// connection is closed.
    pub(super) fn asked(&mut self) -> &mut DB::Connection {
        self.is_asked = true;
        &mut self.connection
    }

    /// The answer. What the database itself has refused is one.
    pub(super) fn heard<T>(&mut self, answer: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        self.is_asked = answer.as_ref().is_err_and(DB::is_lost);
        answer
    }

    /// Whether an answer is missing without which it cannot be used again.
    pub(super) fn is_unknown(&self) -> bool {
        DB::IS_REMOTE && self.is_asked
    }

    /// Closes it at once: its other end is gone, so nothing is said to it.
    pub(super) fn close(mut self) {
        self.is_asked = true;
    }
}

/// What an operation does on a connection of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// Reads, or writes with one statement.
    One,
    /// Writes several things, or none.
    Several,
    /// Begins and ends its own transaction.
    Own,
}

impl<DB: Store> Outbox<DB> {
    /// Does something on a connection of the pool that somebody waits for: in a transaction, which does not wait for
    /// a lock for long, and is committed when the work is done. Otherwise nothing of it is kept. Says who has locked
    /// something.
    pub(super) async fn operate<T, W>(
        &self,
        operation: Operation,
        work: W,
    ) -> Result<T, OutboxError>
    where
        W: AsyncFnOnce(&mut DB::Connection) -> Result<T, sqlx::Error>,
    {
        match self.operated(operation, work).await {
            Ok(found) => Ok(found),
            Err(error) => Err(self.explained(error).await),
        }
    }

    async fn operated<T, W>(&self, operation: Operation, work: W) -> Result<T, sqlx::Error>
    where
        W: AsyncFnOnce(&mut DB::Connection) -> Result<T, sqlx::Error>,
    {
        let mut taken = Taken::from(&self.shared.pool).await?;
        match (operation, DB::BEGIN_TO_LOOK) {
            (Operation::Own, _) | (Operation::One, None) => {}
            (_, Some(begin)) => taken.open(begin).await?,
            (Operation::Several, None) => taken.open(DB::BEGIN).await?,
        }
        let worked = match operation {
            // In which state it is depends on the answers to the work.
            Operation::Own => work(taken.asked()).await,
            Operation::One | Operation::Several => work(&mut taken).await,
        };
        let found = taken.heard(worked)?;
        taken.commit().await?;
        Ok(found)
    }
}

impl<DB: Store> Deref for Taken<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &Self::Target {
        &self.connection
    }
}

impl<DB: Store> DerefMut for Taken<DB> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.connection
    }
}

impl<DB: Store> Drop for Taken<DB> {
    fn drop(&mut self) {
        let runtime = Handle::try_current().ok();
        let Some(runtime) = runtime.filter(|_| !self.is_unknown()) else {
            // A return that is not run closes the connection, and frees its place in the pool.
            return drop(self.connection.return_to_pool());
        };
        if !DB::IS_REMOTE {
            // Its own thread undoes what was dropped. It counts there, so nothing is asked about it here.
            if self.is_open {
                DB::TransactionManager::start_rollback(&mut self.connection);
            }
            return;
        }
        // Savepoints that were forgotten, too.
        while self.connection.is_in_transaction() {
            DB::TransactionManager::start_rollback(&mut self.connection);
        }
        let returning = self.connection.return_to_pool();
        runtime.spawn(async move {
            // Cut off, it is closed.
            if tokio::time::timeout(RETURN, returning).await.is_err() {
                tracing::debug!("silent connection closed");
            }
        });
    }
}
