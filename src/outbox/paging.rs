//! A connection that reads a page in a transaction. Never reads.

use sqlx::pool::PoolConnection;

use super::{Outbox, OutboxError, Store};

/// Closed unless what it was taken for is over. Whoever waits for a page may be dropped meanwhile: sqlx counts a
/// transaction once its beginning is answered, so one that is dropped before would stay open, and go back to the pool
/// that the service has its connections from.
pub(super) struct Paging<DB: Store> {
    pub(super) connection: PoolConnection<DB>,
    is_over: bool,
}

impl<DB: Store> Outbox<DB> {
    pub(super) async fn paging(&self) -> Result<Paging<DB>, OutboxError> {
        Ok(Paging {
            connection: self.acquire().await?,
            is_over: !DB::PAGES_IN_TRANSACTIONS,
        })
    }
}

impl<DB: Store> Paging<DB> {
    /// The page is read, and its transaction has ended.
    pub(super) fn end(mut self) {
        self.is_over = true;
    }
}

impl<DB: Store> Drop for Paging<DB> {
    fn drop(&mut self) {
        if !self.is_over {
            self.connection.close_on_drop();
        }
    }
}
