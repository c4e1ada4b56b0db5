//! A connection of the service's pool while the outbox uses it. Returns it in a clean state, or closes it; never
//! decides which statements run on it.
//!
//! sqlx counts a transaction once its `begin` is answered. When a caller, a timeout or a select drops the future
//! earlier, the `begin` is on its way and the count is still zero: the connection goes back to the pool, and the next
//! writes of the service become part of a transaction that is never committed. So transactions begin and end only
//! through [`LeasedConnection`], which knows whether the last answer arrived, and closes the connection when it did
//! not. This costs no task and no round trip.

use std::{
    ops::{Deref, DerefMut},
    pin::pin,
    time::Duration,
};

use sqlx::{Connection, Pool, SqlSafeStr, pool::PoolConnection};
use sqlx_core::transaction::TransactionManager;
use tokio::runtime::Handle;

use super::Store;
use crate::task::ticks::Ticks;

/// How long the database may take to answer on a connection that is being returned. The pool itself would wait for as
/// long as the kernel believes in the connection, and occupy a place of the pool.
const RETURN: Duration = Duration::from_secs(5);

/// A connection, and perhaps a transaction on it, which is rolled back unless it is committed.
pub(in crate::outbox) struct LeasedConnection<DB: Store> {
    connection: PoolConnection<DB>,
    /// Notices that returning the connection takes long.
    ticks: Ticks,
    /// A request was sent whose answer decides the connection's state, and the answer has not arrived.
    is_asked: bool,
    /// A transaction was begun here and has not ended.
    is_open: bool,
}

impl<DB: Store> LeasedConnection<DB> {
    pub(in crate::outbox) async fn from(
        pool: &Pool<DB>,
        ticks: &Ticks,
    ) -> Result<Self, sqlx::Error> {
        Ok(Self {
            connection: pool.acquire().await?,
            ticks: ticks.clone(),
            is_asked: false,
            is_open: false,
        })
    }

    /// Takes a connection and begins a transaction on it.
    pub(in crate::outbox) async fn begin(
        pool: &Pool<DB>,
        ticks: &Ticks,
        statement: &'static str,
    ) -> Result<Self, sqlx::Error> {
        let mut taken = Self::from(pool, ticks).await?;
        taken.open(statement).await?;
        Ok(taken)
    }

    /// Begins a transaction. When that fails, dropping the connection closes it.
    pub(in crate::outbox) async fn open(
        &mut self,
        statement: &'static str,
    ) -> Result<(), sqlx::Error> {
        let statement = Some(statement.into_sql_str());
        self.is_asked = true;
        DB::TransactionManager::begin(&mut self.connection, statement).await?;
        self.is_asked = false;
        self.is_open = true;
        Ok(())
    }

    /// Commits, if a transaction is open.
    pub(in crate::outbox) async fn commit(mut self) -> Result<(), sqlx::Error> {
        if !self.is_open {
            return Ok(());
        }
        self.is_asked = true;
        let committed = DB::TransactionManager::commit(&mut self.connection).await;
        self.heard(committed)?;
        self.is_open = false;
        Ok(())
    }

    /// Rolls back, if a transaction is open, and waits for the answer.
    #[cfg(feature = "postgres")]
    pub(in crate::outbox) async fn roll_back(&mut self) -> Result<(), sqlx::Error> {
        if !self.is_open {
            return Ok(());
        }
        self.is_asked = true;
        let rolled_back = DB::TransactionManager::rollback(&mut self.connection).await;
        self.heard(rolled_back)?;
        self.is_open = false;
        Ok(())
    }

    /// Gives the connection for a request whose answer decides the connection's state: call [`LeasedConnection::heard`]
    /// afterwards, or the connection is closed.
    pub(in crate::outbox) fn asked(&mut self) -> &mut DB::Connection {
        self.is_asked = true;
        &mut self.connection
    }

    /// Records the answer. An error that the database itself returns is an answer.
    pub(in crate::outbox) fn heard<T>(
        &mut self,
        answer: Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        self.is_asked = answer.as_ref().is_err_and(DB::is_lost);
        answer
    }

    /// Whether an answer is missing without which the connection cannot be reused.
    pub(in crate::outbox) fn is_unknown(&self) -> bool {
        DB::IS_REMOTE && self.is_asked
    }

    /// Closes the connection at once. The server is gone, so nothing is sent to it.
    pub(in crate::outbox) fn close(mut self) {
        self.is_asked = true;
    }
}

impl<DB: Store> Deref for LeasedConnection<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &Self::Target {
        &self.connection
    }
}

impl<DB: Store> DerefMut for LeasedConnection<DB> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.connection
    }
}

impl<DB: Store> Drop for LeasedConnection<DB> {
    fn drop(&mut self) {
        let runtime = Handle::try_current().ok();
        let Some(runtime) = runtime.filter(|_| !self.is_unknown()) else {
            // Dropping the returning future without running it closes the connection and frees its place in the pool.
            return drop(self.connection.return_to_pool());
        };
        if !DB::IS_REMOTE {
            // The thread of the connection undoes what was dropped. It also counts the transactions, so the count is
            // not read here.
            if self.is_open {
                DB::TransactionManager::start_rollback(&mut self.connection);
            }
            return;
        }
        // Also ends savepoints that were left open.
        while self.connection.is_in_transaction() {
            DB::TransactionManager::start_rollback(&mut self.connection);
        }
        let returning = self.connection.return_to_pool();
        let ticks = self.ticks.clone();
        runtime.spawn(async move {
            // When it is dropped unfinished, the connection is closed.
            if ticks.within(RETURN, pin!(returning)).await.is_none() {
                tracing::debug!("silent connection closed");
            }
        });
    }
}
