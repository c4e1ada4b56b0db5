//! Which events of a range a stream holds. Only reads.

use std::{collections::HashSet, hash::RandomState};

use tidings_contract::EventId;

use crate::{bus::Bus, outbox::RepublishError};

/// So many messages are read before the rows, whose events are compared with them as they come. With more, it is the
/// rows of the range that are remembered, and they are read twice.
pub(super) const FEW: u64 = 100_000;

/// What of a stream has to be read.
pub(super) struct Part<'a> {
    pub(super) stream: &'a str,
    pub(super) from: u64,
    pub(super) up_to: u64,
}

/// What one stream holds; about 20 to 40 bytes for each event that is remembered.
pub(super) enum Held {
    /// These it holds.
    These(HashSet<EventId>),
    /// All but these of the range.
    AllBut(HashSet<EventId>),
}

impl Part<'_> {
    /// Whether everything that it holds can be remembered.
    pub(super) fn is_small(&self) -> bool {
        self.up_to.saturating_sub(self.from) < FEW
    }

    /// What it holds.
    pub(super) async fn read(&self, bus: &Bus) -> Result<Held, RepublishError> {
        let mut held = HashSet::new();
        let note = |event| {
            held.insert(event);
            true
        };
        self.each(bus, note).await?;
        Ok(Held::These(held))
    }

    /// Which of these events it holds.
    pub(super) async fn look_for(
        &self,
        bus: &Bus,
        mut events: HashSet<EventId>,
    ) -> Result<Held, RepublishError> {
        let note = |event| {
            events.remove(&event);
            !events.is_empty()
        };
        self.each(bus, note).await?;
        Ok(Held::AllBut(events))
    }

    /// Reads as long as there is more of interest.
    async fn each(
        &self,
        bus: &Bus,
        mut note: impl FnMut(EventId) -> bool,
    ) -> Result<(), RepublishError> {
        let payloads: Option<RandomState> = None;
        let read = bus.read_stored(self.stream, self.from, self.up_to, payloads);
        let mut messages = read.await?;
        while let Some(message) = messages.next().await? {
            if !note(message.event) {
                break;
            }
        }
        Ok(())
    }
}

impl Held {
    pub(super) fn has(&self, event: EventId) -> bool {
        match self {
            Self::These(held) => held.contains(&event),
            Self::AllBut(missing) => !missing.contains(&event),
        }
    }
}
