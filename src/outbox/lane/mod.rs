//! A lane publishes rows into one stream, in their order and in atomic batches, for the relay and for the republisher.
//! Never decides what follows when the stream refuses: that is where the two differ.
//!
//! The members of a batch are sent at once. Its last message, the commit, is held back until the batch before it is
//! confirmed. So order is kept and the round trip is hidden (+10–15 % measured).

mod in_flight;
mod ledger;
mod room;

use std::collections::HashSet;

use tidings_contract::Envelope;

use super::store::{Row, ledger::LedgerKind};
use crate::{
    nats::{BatchId, Bus, Refusal, Submission},
    task::fence::{Fence, LeaseOver},
};
pub(super) use in_flight::{Answer, InFlight};
pub(super) use ledger::Ledger;
pub(super) use room::BatchRoom;

/// A row on its way into the stream.
pub(super) struct Item<N> {
    pub(super) row: Row,
    pub(super) envelope: Envelope,
    /// What the user of the lane keeps beside the row.
    pub(super) note: N,
}

/// How the rows of a lane become messages, and where they come from.
pub(super) trait Messages: Send + Sync {
    /// What is kept beside each row: where it was read, or what is known of it.
    type Note: Send + Sync + 'static;
    /// The most rows of different keys that are sent side by side instead of in a batch, each confirmed by itself; 0
    /// for a lane that sends batches only.
    const SIDE_BY_SIDE: usize;

    /// How the ledger records the rows.
    fn kind(&self) -> LedgerKind;

    /// Builds the message of a row.
    fn message(&self, item: &Item<Self::Note>) -> Submission;
}

/// Sends the batches of one stream under one lease.
pub(super) struct Lane<M> {
    pub(super) bus: Bus,
    /// Without the lease nothing is committed.
    pub(super) fence: Fence,
    pub(super) stream: String,
    pub(super) ledger: Ledger,
    pub(super) messages: M,
}

impl<M: Messages> Lane<M> {
    pub(super) fn new(
        bus: Bus,
        fence: Fence,
        stream: String,
        incarnation: &str,
        messages: M,
    ) -> Self {
        Self {
            bus,
            fence,
            ledger: Ledger::new(messages.kind(), &stream, incarnation),
            stream,
            messages,
        }
    }

    /// Sends all messages of a batch but the last; meanwhile the commit of the batch before it is answered.
    ///
    /// Until the members have left, the commit would wait behind them in this process. A process that is frozen then
    /// would send the commit long after its lease is over.
    pub(super) async fn send_members(
        &self,
        batch: &BatchId,
        items: &[Item<M::Note>],
        before: Option<&mut InFlight<M::Note>>,
    ) -> Result<(), Refusal> {
        let members = match items.split_last() {
            Some((_, members)) if !self.goes_side_by_side(items) => members,
            _ => &[],
        };
        let messages = members.iter().map(|item| self.messages.message(item));
        let sending = self.bus.send_members(batch, Box::new(messages));
        match before {
            // The commit is not on the wire before its future is polled.
            Some(before) => futures::join!(before.land(), sending).1,
            None => sending.await,
        }
    }

    /// Sends the commit of a batch whose members are sent, or each of a few rows. The fence is checked now, and again
    /// at the moment of sending, since time may pass before the future is polled.
    pub(super) fn commit(
        &self,
        batch: BatchId,
        items: Vec<Item<M::Note>>,
    ) -> Result<Option<InFlight<M::Note>>, LeaseOver> {
        self.fence.check()?;
        let Some(last) = items.last() else {
            return Ok(None);
        };
        let (bus, fence, stream) = (self.bus.clone(), self.fence.clone(), self.stream.clone());
        if self.goes_side_by_side(&items) {
            let messages = items.iter().map(|item| self.messages.message(item));
            let messages = messages.collect();
            return Ok(Some(InFlight::each(bus, fence, stream, items, messages)));
        }
        let last = self.messages.message(last);
        let in_flight = InFlight::batch(bus, fence, stream, batch, items, last);
        Ok(Some(in_flight))
    }

    /// Whether rows may be sent side by side: few, and no two of one key. A batch costs the server about 3 ms however
    /// small it is. No key has two of the rows, so they cannot be reordered within a key.
    fn goes_side_by_side(&self, items: &[Item<M::Note>]) -> bool {
        items.len() <= M::SIDE_BY_SIDE && are_of_different_keys(items)
    }
}

fn are_of_different_keys<N>(items: &[Item<N>]) -> bool {
    let keys = || items.iter().filter_map(|item| item.row.key.as_deref());
    let different: HashSet<&str> = keys().collect();
    different.len() == keys().count()
}
