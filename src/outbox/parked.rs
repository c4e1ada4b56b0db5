//! Parked rows: listing them, requesting that they are published, and discarding them. The relay publishes; nothing
//! here does.

use super::{
    Entry, LedgerKind, Outbox, OutboxError, Store,
    operate::Operation,
    store::parked::{Extent, ParkedEvent, ParkedSelection},
};

/// The most rows that are examined at once.
const PAGE: u32 = 1000;

impl<DB: Store> Outbox<DB> {
    /// Returns parked events after a row id, in the order of row ids; at most `limit`, and fewer when they are large.
    /// Only an empty result means that there are no more.
    ///
    /// # Errors
    /// [`OutboxError::NotMigrated`] without tables, else [`OutboxError::Database`].
    pub async fn parked(
        &self,
        selection: &ParkedSelection,
        behind: i64,
        limit: u32,
    ) -> Result<Vec<ParkedEvent>, OutboxError> {
        let page = (behind, limit);
        self.read_parked(selection, page, Extent::Shown).await
    }

    /// As [`Outbox::parked`], for lists: headers and payloads are not read.
    ///
    /// # Errors
    /// As for [`Outbox::parked`].
    pub async fn parked_heads(
        &self,
        selection: &ParkedSelection,
        behind: i64,
        limit: u32,
    ) -> Result<Vec<ParkedEvent>, OutboxError> {
        let page = (behind, limit);
        self.read_parked(selection, page, Extent::Head).await
    }

    /// As [`Outbox::parked`], for export: with the whole payloads, however large they are.
    ///
    /// # Errors
    /// As for [`Outbox::parked`].
    pub async fn parked_whole(
        &self,
        selection: &ParkedSelection,
        behind: i64,
        limit: u32,
    ) -> Result<Vec<ParkedEvent>, OutboxError> {
        let page = (behind, limit);
        self.read_parked(selection, page, Extent::Whole).await
    }

    async fn read_parked(
        &self,
        selection: &ParkedSelection,
        (mut behind, limit): (i64, u32),
        extent: Extent,
    ) -> Result<Vec<ParkedEvent>, OutboxError> {
        let names = &self.shared.names;
        let limit = limit.min(PAGE);
        let reading = async |connection: &mut DB::Connection| {
            loop {
                let sizes = DB::parked_sizes(connection, names, selection, behind, limit).await?;
                let ids = extent.first(&sizes);
                let Some(last) = ids.last() else {
                    return Ok(Vec::new());
                };
                let parked = DB::parked(connection, names, &ids, extent).await?;
                // When all of these rows were removed meanwhile, there may be more after them.
                if !parked.is_empty() {
                    return Ok(parked);
                }
                behind = *last;
            }
        };
        self.operate(Operation::One, reading).await
    }

    /// Requests that the relay publishes parked events, in the order in which they were written. Selecting one event
    /// selects all parked events of its key, because an event never overtakes an earlier one of its key. Events that
    /// are refused again stay parked, with those that follow them. Returns the number of requested events.
    ///
    /// # Errors
    /// [`OutboxError::NotMigrated`] without tables, else [`OutboxError::Database`].
    ///
    /// # Cancel safety
    /// When the future is dropped, all of it has happened, or nothing. Calling it again requests the same events again.
    pub async fn unpark(&self, selection: &ParkedSelection) -> Result<u64, OutboxError> {
        let names = &self.shared.names;
        let asking =
            async |connection: &mut DB::Connection| DB::unpark(connection, names, selection).await;
        let asked = self.operate(Operation::One, asking).await?;
        self.shared.wake.committed();
        Ok(asked)
    }

    /// Discards parked events permanently, in the order of row ids; at most `limit`, and fewer when they are large;
    /// none when there are no more. Returns the discarded events, so that the caller can store them elsewhere. Events
    /// that are parked behind a discarded one stay parked until their unpark is requested.
    ///
    /// # Errors
    /// [`OutboxError::NotMigrated`] without tables, else [`OutboxError::Database`].
    ///
    /// # Cancel safety
    /// When the future is dropped, all events that this call would have returned are discarded and in the ledger, or
    /// none is. Those that were not returned are lost to the caller: store them before, as [`Outbox::parked_whole`]
    /// returns them.
    pub async fn discard(
        &self,
        selection: &ParkedSelection,
        limit: u32,
    ) -> Result<Vec<ParkedEvent>, OutboxError> {
        let limit = limit.min(PAGE);
        let discarding = async |connection: &mut DB::Connection| {
            let names = &self.shared.names;
            let sizes = DB::parked_sizes(connection, names, selection, i64::MIN, limit).await?;
            let ids = Extent::Whole.first(&sizes);
            self.give_up(connection, &ids, Extent::Whole).await
        };
        Ok(log_discarded(
            self.operate(Operation::Several, discarding).await?,
        ))
    }

    /// Discards these rows, as far as they are parked; returns them without headers and payloads.
    ///
    /// # Errors
    /// As for [`Outbox::discard`].
    ///
    /// # Cancel safety
    /// When the future is dropped, all of the rows are discarded and in the ledger, or none is.
    pub async fn discard_rows(&self, ids: &[i64]) -> Result<Vec<ParkedEvent>, OutboxError> {
        let discarding = async |connection: &mut DB::Connection| {
            self.give_up(connection, ids, Extent::Head).await
        };
        Ok(log_discarded(
            self.operate(Operation::Several, discarding).await?,
        ))
    }

    async fn give_up(
        &self,
        connection: &mut DB::Connection,
        ids: &[i64],
        extent: Extent,
    ) -> Result<Vec<ParkedEvent>, sqlx::Error> {
        let names = &self.shared.names;
        let discarded = DB::discard(connection, names, ids, extent).await?;
        // Without the entries, `verify` could report the events as missing.
        let entries: Vec<Entry> = discarded.iter().map(discarded_entry).collect();
        DB::record(connection, names, &entries).await?;
        Ok(discarded)
    }
}

/// Logs the discarded events, and returns them in the order of row ids.
fn log_discarded(mut discarded: Vec<ParkedEvent>) -> Vec<ParkedEvent> {
    discarded.sort_by_key(|event| event.id);
    discarded
        .iter_mut()
        .for_each(|event| event.is_returning = false);
    for ParkedEvent {
        id,
        event,
        name,
        key,
        ..
    } in &discarded
    {
        tracing::warn!(row = id, event.id = %event, event.name = name, key, "parked event discarded");
    }
    discarded
}

/// The ledger entry of a discarded event.
fn discarded_entry(event: &ParkedEvent) -> Entry {
    Entry {
        first_id: event.id,
        last_id: event.id,
        events: 0,
        stream: String::new(),
        incarnation: String::new(),
        first_sequence: 0,
        last_sequence: 0,
        kind: LedgerKind::Discarded,
    }
}
