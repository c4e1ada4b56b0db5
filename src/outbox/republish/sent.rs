//! What a run has sent into one stream, so that each event is sent once, even if it has several rows. Never sends.

use std::collections::HashMap;

use tidings_contract::EventId;

/// At least this many of the latest ids are known, and at most twice as many; about 50 bytes each. Earlier ones are
/// left to the server, which knows them for the length of its duplicate window.
const KNOWN: usize = 250_000;

/// The ids of a run with their sequences; 0 until a sequence is known.
#[derive(Default)]
pub(super) struct Sent {
    young: HashMap<EventId, u64>,
    old: HashMap<EventId, u64>,
}

impl Sent {
    /// Notes that an event is sent. Returns whether it is the first with its id.
    pub(super) fn is_first(&mut self, event: EventId) -> bool {
        if self.young.len() >= KNOWN {
            self.old = std::mem::take(&mut self.young);
        }
        if self.old.contains_key(&event) {
            return false;
        }
        let known = self.young.len();
        self.young.entry(event).or_insert(0);
        self.young.len() > known
    }

    /// Notes the sequence of an event; the first sequence stays.
    pub(super) fn stored(&mut self, event: &EventId, sequence: u64) {
        let young = self.young.get_mut(event);
        if let Some(at @ 0) = young.or_else(|| self.old.get_mut(event)) {
            *at = sequence;
        }
    }

    /// The sequence of an event, if known.
    pub(super) fn sequence(&self, event: &EventId) -> Option<u64> {
        let at = self.young.get(event).or_else(|| self.old.get(event));
        at.copied().filter(|at| *at > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_first_once_and_keeps_its_first_position() {
        let mut sent = Sent::default();
        let (one, other) = (EventId::now(), EventId::now());
        assert!(sent.is_first(one) && sent.is_first(other) && !sent.is_first(one));
        assert_eq!(sent.sequence(&one), None);
        sent.stored(&one, 7);
        sent.stored(&one, 9);
        assert_eq!(
            (sent.sequence(&one), sent.sequence(&other)),
            (Some(7), None)
        );
    }

    #[test]
    fn known_ids_are_bounded() {
        let mut sent = Sent::default();
        let id = |n: usize| EventId::from(uuid::Uuid::from_u128(n as u128));
        for n in 0..3 * KNOWN {
            assert!(sent.is_first(id(n)));
        }
        assert!(!sent.is_first(id(2 * KNOWN)) && sent.is_first(id(0)));
        assert!(sent.young.len() + sent.old.len() <= 2 * KNOWN);
    }
}
