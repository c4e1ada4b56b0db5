//! The identity of an event. Never the position of a message in a stream.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Identifies one event permanently: in the outbox, on the wire (`ce-id`, `Nats-Msg-Id`), in the inbox.
///
/// Tidings makes UUIDs of version 7, which sort by the millisecond of their creation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(Uuid);

impl EventId {
    /// Makes a new identity from the clock and randomness. Within one process, a later one sorts later.
    #[must_use]
    pub fn now() -> Self {
        Self(Uuid::now_v7())
    }

    /// Returns the identity for a foreign publisher's text: the UUID that the text spells, else a UUID version 5 of
    /// `scope` and `text`, so that the same message has the same identity at every delivery.
    ///
    /// `scope` is the range in which the text is unique: the same text in another scope is another event.
    #[must_use]
    pub fn of_foreign(scope: &str, text: &str) -> Self {
        Uuid::try_parse(text).map_or_else(|_| Self::derived(scope, text), Self)
    }

    /// Returns the UUID version 5 of a scope and a text, even when the text is a UUID: two publishers may use the same
    /// one.
    #[must_use]
    pub fn derived(scope: &str, text: &str) -> Self {
        // Scope and text are hashed separately: joined, "a/b" + "c" would equal "a" + "b/c".
        let scope = Uuid::new_v5(&Uuid::NAMESPACE_URL, scope.as_bytes());
        Self(Uuid::new_v5(&scope, text.as_bytes()))
    }

    /// The UUID itself.
    #[must_use]
    pub const fn as_uuid(&self) -> &Uuid {
        &self.0
    }
}

impl From<Uuid> for EventId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl From<EventId> for Uuid {
    fn from(id: EventId) -> Self {
        id.0
    }
}

impl FromStr for EventId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(text).map(Self)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventId({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_ids_sort_later() {
        let ids: Vec<EventId> = (0..10_000).map(|_| EventId::now()).collect();
        assert!(ids.is_sorted_by(|earlier, later| earlier < later));
    }

    #[test]
    fn a_uuid_in_any_spelling_is_the_same_identity() {
        let id = EventId::now();
        let text = id.to_string();
        for spelling in [text.to_uppercase(), format!("urn:uuid:{text}"), text] {
            assert_eq!(EventId::of_foreign("any", &spelling), id, "{spelling}");
        }
    }

    #[test]
    fn a_text_has_one_identity_in_its_scope() {
        assert_eq!(EventId::of_foreign("a", "7"), EventId::of_foreign("a", "7"));
        assert_ne!(EventId::of_foreign("a", "7"), EventId::of_foreign("b", "7"));
        assert_ne!(
            EventId::of_foreign("a/b", "c"),
            EventId::of_foreign("a", "b/c")
        );
    }
}
