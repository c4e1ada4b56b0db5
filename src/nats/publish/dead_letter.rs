//! Stores a dead letter, and finds one that was stored. Never decides that an event is dead-lettered.

use chrono::{DateTime, Utc};
use tidings_contract::wire;

use crate::{
    nats::{
        Bus, BusError, StoredMessage,
        protocol::{
            dead_letter::{CLOCKS_DIFFER, DeadLetterMessage},
            names,
        },
    },
    policy::start::{StartFrom, shifted},
};

impl DeadLetterMessage<'_> {
    /// Stores the dead letter, and returns its sequence after the server has confirmed it.
    pub(in crate::nats) async fn publish(&self, bus: &Bus) -> Result<u64, BusError> {
        bus.check_keeps_dead_letters().await?;
        let (headers, payload) = self.fitting(bus.max_payload(), Utc::now());
        let storing = bus.store(self.stored_under(), headers, payload);
        Ok(storing.await?.seq)
    }

    /// Its sequence, if it was stored since a time, even when its stream no longer remembers its id.
    pub(in crate::nats) async fn stored_since(
        &self,
        bus: &Bus,
        since: DateTime<Utc>,
    ) -> Result<Option<u64>, BusError> {
        let (stream, subject, id) = (names::DEAD_LETTERS, self.stored_under(), self.id());
        let is_it = |kept: &StoredMessage| {
            let mut headers = kept.headers.iter();
            headers.any(|(name, value)| name == wire::MESSAGE_ID && *value == id)
        };
        let mut from = StartFrom::Time(shifted(since, -CLOCKS_DIFFER));
        loop {
            let page = bus.page(stream, &subject, from).await?;
            if let Some(kept) = page.iter().find(|kept| is_it(kept)) {
                return Ok(Some(kept.sequence));
            }
            let Some(last) = page.last() else {
                return Ok(None);
            };
            from = StartFrom::Sequence(last.sequence.saturating_add(1));
        }
    }
}
