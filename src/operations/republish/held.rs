//! Which events of a range a stream holds. Only reads.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
};

use tidings_contract::EventId;

use crate::{
    nats::{Bus, Stored},
    outbox::RepublishError,
};

/// Up to this many messages are read before the rows, which are then compared with them as they are read. With more
/// messages, the rows of the range are held in memory instead, and read twice.
pub(super) const FEW: u64 = 100_000;

/// The part of a stream that has to be read.
pub(super) struct Part<'a> {
    pub(super) stream: &'a str,
    pub(super) from: u64,
    pub(super) up_to: u64,
}

/// What one stream holds; about 25 to 50 bytes for each event in memory.
pub(super) enum Held {
    /// The stream holds these events.
    These(Marks),
    /// The stream holds all events of the range but these.
    AllBut {
        missing: Marks,
        /// Ids under which it holds other events.
        taken: HashSet<EventId>,
    },
}

/// What a stream holds of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Event,
    /// Another event with its id.
    Another,
    Nothing,
}

/// Events by their ids, each with a hash of its other attributes: an id alone may belong to another event.
#[derive(Default)]
pub(super) struct Marks {
    seed: RandomState,
    firsts: HashMap<EventId, u32>,
    /// Further hashes of ids that more than one event has.
    others: HashMap<EventId, HashSet<u32>>,
}

/// The attributes that are hashed.
#[derive(Clone, Copy, Hash)]
pub(super) struct Marked<'a> {
    pub(super) name: &'a str,
    pub(super) version: u32,
    pub(super) key: Option<&'a str>,
    pub(super) bytes: usize,
}

impl<'a> From<&'a Stored> for Marked<'a> {
    fn from(stored: &'a Stored) -> Self {
        Self {
            name: &stored.name,
            version: stored.version,
            key: stored.key.as_deref(),
            bytes: stored.bytes,
        }
    }
}

impl Marks {
    fn mark(&self, marked: Marked<'_>) -> u32 {
        let [a, b, c, d, ..] = self.seed.hash_one(marked).to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    pub(super) fn insert(&mut self, event: EventId, marked: Marked<'_>) {
        let mark = self.mark(marked);
        let first = *self.firsts.entry(event).or_insert(mark);
        if first != mark {
            self.others.entry(event).or_default().insert(mark);
        }
    }

    fn is_empty(&self) -> bool {
        self.firsts.is_empty() && self.others.is_empty()
    }

    /// Returns whether the event was there.
    fn remove(&mut self, event: EventId, marked: Marked<'_>) -> bool {
        let mark = self.mark(marked);
        if self.firsts.get(&event) == Some(&mark) {
            self.firsts.remove(&event);
            return true;
        }
        let Some(others) = self.others.get_mut(&event) else {
            return false;
        };
        let was_there = others.remove(&mark);
        if others.is_empty() {
            self.others.remove(&event);
        }
        was_there
    }

    fn has_id(&self, event: EventId) -> bool {
        self.firsts.contains_key(&event) || self.others.contains_key(&event)
    }

    fn has(&self, event: EventId, marked: Marked<'_>) -> bool {
        let mark = self.mark(marked);
        let others = || {
            self.others
                .get(&event)
                .is_some_and(|others| others.contains(&mark))
        };
        self.firsts.get(&event) == Some(&mark) || others()
    }
}

impl Part<'_> {
    /// Whether everything that it holds fits into memory.
    pub(super) fn is_small(&self) -> bool {
        self.up_to.saturating_sub(self.from) < FEW
    }

    /// Reads which events it holds.
    pub(super) async fn read(&self, bus: &Bus) -> Result<Held, RepublishError> {
        let mut held = Marks::default();
        let note = |message: &Stored| {
            held.insert(message.event, message.into());
            true
        };
        self.each(bus, note).await?;
        Ok(Held::These(held))
    }

    /// Finds out which of these events it holds.
    pub(super) async fn look_for(
        &self,
        bus: &Bus,
        mut missing: Marks,
    ) -> Result<Held, RepublishError> {
        let mut taken = HashSet::new();
        let note = |message: &Stored| {
            if !missing.remove(message.event, message.into()) && missing.has_id(message.event) {
                taken.insert(message.event);
            }
            !missing.is_empty()
        };
        self.each(bus, note).await?;
        Ok(Held::AllBut { missing, taken })
    }

    /// Reads until the end, or until `note` returns false.
    async fn each(
        &self,
        bus: &Bus,
        mut note: impl FnMut(&Stored) -> bool,
    ) -> Result<(), RepublishError> {
        let payloads: Option<RandomState> = None;
        let read = bus.read_stored(self.stream, self.from, self.up_to, payloads);
        let mut messages = read.await?;
        while let Some(message) = messages.next().await? {
            if !note(&message) {
                break;
            }
        }
        Ok(())
    }
}

impl Held {
    pub(super) fn holds(&self, event: EventId, marked: Marked<'_>) -> Holds {
        match self {
            Self::These(held) if held.has(event, marked) => Holds::Event,
            Self::These(held) if held.has_id(event) => Holds::Another,
            Self::These(_) => Holds::Nothing,
            Self::AllBut { missing, taken } => match missing.has(event, marked) {
                false => Holds::Event,
                true if taken.contains(&event) => Holds::Another,
                true => Holds::Nothing,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Marked<'_> = Marked {
        name: "a.b",
        version: 1,
        key: Some("k"),
        bytes: 2,
    };
    const OTHER: Marked<'_> = Marked { name: "a.c", ..ONE };

    #[test]
    fn an_id_of_another_event_is_distinguished_from_the_event() {
        let id = EventId::from(uuid::Uuid::from_bytes([1; 16]));
        let mut held = Marks::default();
        held.insert(id, ONE);
        let these = Held::These(held);
        assert_eq!(these.holds(id, ONE), Holds::Event);
        assert_eq!(these.holds(id, OTHER), Holds::Another);
        let mut missing = Marks::default();
        missing.insert(id, ONE);
        missing.insert(id, OTHER);
        assert!(missing.remove(id, ONE) && missing.has_id(id) && !missing.is_empty());
        let taken = HashSet::from([id]);
        let all_but = Held::AllBut { missing, taken };
        assert_eq!(all_but.holds(id, ONE), Holds::Event);
        assert_eq!(all_but.holds(id, OTHER), Holds::Another);
    }
}
