//! Whose id the stream already has: the row's own, which is then stored, or another event's. Never decides what
//! follows.

use super::{Cursor, Fault, Item, Known, LaneContext, RelayLane};
use crate::nats::{Confirmed, Holder, Refusal};

impl<C: Cursor> RelayLane<C> {
    /// What the stream held of these rows when the tenure began; empty when it had none of their ids.
    pub(super) async fn known(&self, items: &[Item]) -> Result<Vec<Known>, Fault> {
        let LaneContext { stored, bus, .. } = &*self.context;
        let found = stored.found.get(&self.lane.stream);
        let is_found = |item: &Item| found.is_some_and(|found| found.has(&item.row.event));
        if !items.iter().any(is_found) {
            return Ok(Vec::new());
        }
        let identities = items.iter().map(|item| (&item.envelope).into()).collect();
        Ok(stored.all_known(bus, &self.lane.stream, identities).await?)
    }

    /// The answer for a row that was sent by itself: a duplicate is stored, unless another event has its id.
    pub(super) async fn resolved(
        &self,
        item: &Item,
        answer: Result<Confirmed, Refusal>,
    ) -> Result<Result<Confirmed, Refusal>, Fault> {
        let duplicate = match answer {
            Ok(confirmed) if confirmed.is_duplicate => confirmed,
            answer => return Ok(answer),
        };
        Ok(match self.taken_id(item, duplicate.sequence).await? {
            Some(other) => Err(Refusal::DuplicateId(other)),
            None => Ok(duplicate),
        })
    }

    /// Why a row is not stored although the server reports it as a duplicate: another event has its id. A message
    /// that is no longer there is taken to be the event, as far as the relay can know.
    async fn taken_id(&self, item: &Item, sequence: u64) -> Result<Option<String>, Fault> {
        let identity = (&item.envelope).into();
        let holder = self
            .context
            .bus
            .holder(&self.lane.stream, sequence, identity)
            .await?;
        Ok(match holder {
            Holder::Other(other) => Some(other),
            Holder::Same => None,
            Holder::Nothing
                if self
                    .context
                    .stored
                    .is_written_down(&self.lane.stream, sequence) =>
            {
                Some(format!(
                    "sequence {sequence} of {} had this id, and is gone: the stream takes it when its duplicate window \
                     is over",
                    self.lane.stream
                ))
            }
            Holder::Nothing => {
                let (stream, event) = (&self.lane.stream, item.row.event);
                tracing::warn!(stream, sequence, event.id = %event,
                    "duplicate without message: the stream no longer has the event");
                None
            }
        })
    }
}
