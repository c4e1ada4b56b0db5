//! Runs an operation of the outbox on a connection of the pool, and ends what it has begun. Never decides which
//! statements run.

use super::{Outbox, OutboxError, Store, store::leased_connection::LeasedConnection};

/// The kind of an operation on a connection of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::outbox) enum Operation {
    /// Reads, or writes with one statement.
    One,
    /// Writes with several statements, all or none.
    Several,
    /// Begins and ends its own transaction.
    Own,
}

impl<DB: Store> Outbox<DB> {
    /// Runs an operation that a caller waits for, on a connection of the pool. Its transaction waits for locks only
    /// briefly and commits when the work is done; otherwise nothing of it is kept. After a lock timeout the error names
    /// the holder.
    pub(in crate::outbox) async fn operate<T, W>(
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

    /// Runs work in a transaction of its own. It commits when the work is done; otherwise nothing of it is kept.
    pub(in crate::outbox) async fn in_transaction<T, E, W>(
        &self,
        begin: &'static str,
        work: W,
    ) -> Result<T, E>
    where
        E: From<sqlx::Error>,
        W: AsyncFnOnce(&mut DB::Connection) -> Result<T, E>,
    {
        let mut tx =
            LeasedConnection::begin(&self.shared.pool, &self.shared.link.ticks, begin).await?;
        let done = work(&mut tx).await?;
        tx.commit().await?;
        Ok(done)
    }

    async fn operated<T, W>(&self, operation: Operation, work: W) -> Result<T, sqlx::Error>
    where
        W: AsyncFnOnce(&mut DB::Connection) -> Result<T, sqlx::Error>,
    {
        let mut taken = self.leased().await?;
        match (operation, DB::BEGIN_TO_LOOK) {
            (Operation::Own, _) | (Operation::One, None) => {}
            (_, Some(begin)) => taken.open(begin).await?,
            (Operation::Several, None) => taken.open(DB::BEGIN).await?,
        }
        let worked = match operation {
            // The answers to the work decide the connection's state.
            Operation::Own => work(taken.asked()).await,
            Operation::One | Operation::Several => work(&mut taken).await,
        };
        let found = taken.heard(worked)?;
        taken.commit().await?;
        Ok(found)
    }
}
