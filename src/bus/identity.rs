//! Whether a message of a stream is a certain event, and not another one that has its id. Never decides what follows.

use tidings_contract::{Envelope, EventId, wire};

use super::{Bus, BusError, Kept};

/// So many characters of another event's name or key are quoted.
const QUOTED: usize = 200;

/// What tells an event from every other one: an id alone does not, because two writers may use the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity<'a> {
    pub(crate) event: EventId,
    pub(crate) name: &'a str,
    pub(crate) version: u32,
    pub(crate) key: Option<&'a str>,
    pub(crate) payload: &'a [u8],
}

/// What a stream holds where an event's id was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    /// There is no message any more.
    Nothing,
    /// The event.
    Same,
    /// Another event, or a message that is none; in words: `sequence 17 of EVENTS has this id: user.created k1`.
    Other(String),
}

impl<'a> From<&'a Envelope> for Identity<'a> {
    fn from(envelope: &'a Envelope) -> Self {
        Self {
            event: envelope.id(),
            name: envelope.name().as_str(),
            version: envelope.version(),
            key: envelope.key(),
            payload: envelope.payload(),
        }
    }
}

impl Identity<'_> {
    /// Nothing when a message is the event, else what it is.
    fn other(&self, kept: &Kept) -> Option<String> {
        let headers = kept.headers.iter();
        let headers = headers.map(|(name, value)| (&**name, &**value));
        // Without a name of its own it is known by its subject alone.
        let foreign = || format!("{}/{}", kept.subject, kept.sequence);
        let found = wire::read(&kept.subject, headers, kept.payload.clone(), foreign);
        let Ok(found) = found else {
            return Some(format!("a message to {}", quoted(&kept.subject)));
        };
        let (name, key) = (found.name().as_str(), found.key());
        let is_alike = name == self.name && key == self.key;
        let is_of_version = found.version() == self.version;
        let is_same = is_alike && is_of_version && found.id() == self.event;
        if is_same && kept.payload == self.payload {
            return None;
        }
        let mut other = quoted(name);
        if let Some(key) = key {
            other.push(' ');
            match self.key == Some(key) {
                // Its database holds it already.
                true => other.push_str(key),
                false => other.push_str(&quoted(key)),
            }
        }
        Some(match (is_alike, is_of_version) {
            (true, true) if is_same => format!("{other}, with another payload"),
            (true, true) => format!("{other}, as the id of its message"),
            (true, false) => format!("{other}, of version {}", found.version()),
            (false, _) => other,
        })
    }
}

/// A text of another publisher: bounded, and such that every database can hold it.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::new();
    for (at, character) in text.chars().enumerate() {
        if at == QUOTED {
            quoted.push_str("...");
            break;
        }
        match character {
            ' '..='~' => quoted.push(character),
            other => quoted.extend(other.escape_default()),
        }
    }
    quoted
}

impl Bus {
    /// Whether an event is what lies at a sequence of a stream.
    pub(crate) async fn holder(
        &self,
        stream: &str,
        sequence: u64,
        identity: Identity<'_>,
    ) -> Result<Holder, BusError> {
        Ok(match self.kept(stream, sequence).await? {
            None => Holder::Nothing,
            Some(kept) => match identity.other(&kept) {
                None => Holder::Same,
                Some(other) => Holder::Other(format!(
                    "sequence {sequence} of {stream} has this id: {other}"
                )),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn kept(envelope: &Envelope) -> Kept {
        let mut headers = Vec::new();
        let defaults = wire::Defaults {
            source: "tests",
            time: DateTime::UNIX_EPOCH,
        };
        wire::write_headers(envelope, defaults, |name, value| {
            headers.push((name.to_owned(), value.to_owned()));
        });
        Kept {
            sequence: 17,
            stored_at: DateTime::UNIX_EPOCH,
            subject: envelope.name().to_string(),
            headers,
            payload: envelope.payload().clone(),
        }
    }

    fn event(name: &str, version: u32, key: Option<&str>, payload: &'static str) -> Envelope {
        let id = EventId::from(uuid::Uuid::from_bytes([7; 16]));
        let envelope = Envelope::raw(name, version, key, payload).unwrap();
        envelope.with_id(id)
    }

    fn other(own: &Envelope, found: &Envelope) -> Option<String> {
        Identity::from(own).other(&kept(found))
    }

    #[test]
    fn the_same_event_is_the_same_in_any_script() {
        for key in [None, Some("k1"), Some("Zo\u{eb} \u{1f600}")] {
            let own = event("user.created", 1, key, "{}");
            assert_eq!(other(&own, &own), None);
        }
    }

    #[test]
    fn another_name_key_version_or_payload_is_another_event_and_is_named() {
        let own = event("user.deleted", 1, Some("k2"), "{\"n\":2}");
        for (found, said) in [
            (
                event("user.created", 1, Some("k1"), "{}"),
                "user.created k1",
            ),
            (event("user.created", 1, None, "{}"), "user.created"),
            (
                event("user.deleted", 1, Some("k1"), "{\"n\":2}"),
                "user.deleted k1",
            ),
            (
                event("user.deleted", 2, Some("k2"), "{\"n\":2}"),
                "user.deleted k2, of version 2",
            ),
            (
                event("user.deleted", 1, Some("k2"), "{\"n\":3}"),
                "user.deleted k2, with another payload",
            ),
        ] {
            assert_eq!(other(&own, &found).as_deref(), Some(said));
        }
    }

    #[test]
    fn a_message_that_is_no_event_of_ours_is_another_one() {
        let own = event("user.deleted", 1, None, "{}");
        let mut message = kept(&own);
        message.headers = vec![(wire::MESSAGE_ID.to_owned(), own.id().to_string())];
        let found = Identity::from(&own).other(&message);
        assert_eq!(found.as_deref(), Some("user.deleted, of version 0"));
        message.subject = "user.CREATED\u{7}".to_owned();
        let found = Identity::from(&own).other(&message);
        assert_eq!(found.as_deref(), Some("a message to user.CREATED\\u{7}"));
    }

    /// What it says is written into a database, which may not know the character, and is shown.
    #[test]
    fn what_is_quoted_of_others_is_short_and_plain() {
        assert_eq!(quoted("a\u{0}\u{1f600}\n"), "a\\u{0}\\u{1f600}\\n");
        assert_eq!(quoted(&"x".repeat(9000)).len(), QUOTED + 3);
    }
}
