//! Adopts an outbox that was copied row by row, in one transaction. Never decides what that does to a row.

use sqlx::Postgres;

use super::{
    Outbox,
    store::{
        Dialect,
        leased_connection::LeasedConnection,
        postgres::{AdoptError, Adoption, adopt},
    },
};

impl Outbox<Postgres> {
    /// Adopts an outbox that came by dump and restore, or by a logical copy: the relay then publishes what was
    /// unpublished when the copy was made, and what was written here since. Returns what was done; `None` when it is
    /// not necessary. Stop the writers first: this locks the outbox, and rewrites the whole log.
    ///
    /// # Errors
    /// [`AdoptError`]; nothing was changed.
    ///
    /// # Cancel safety
    /// Runs in one transaction: either all of it has happened, or nothing.
    pub async fn adopt(&self) -> Result<Option<Adoption>, AdoptError> {
        let names = &self.shared.names;
        self.in_transaction(Postgres::BEGIN_OWN, async |connection| {
            adopt::adopt(connection, names).await
        })
        .await
    }

    /// Returns what [`Outbox::adopt`] would do. Changes nothing, and blocks no other transaction.
    ///
    /// # Errors
    /// [`AdoptError`].
    pub async fn adopt_dry_run(&self) -> Result<Option<Adoption>, AdoptError> {
        let mut tx = LeasedConnection::begin(
            &self.shared.pool,
            &self.shared.link.ticks,
            Postgres::BEGIN_OWN,
        )
        .await?;
        let planned = adopt::plan(&mut tx, &self.shared.names).await?;
        tx.roll_back().await?;
        Ok(planned)
    }
}
