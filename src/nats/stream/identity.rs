//! Whether a message of a stream is a certain event, or another one with the same id. Never decides what follows.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidings_contract::{Envelope, EventId, Extensions, Headers, wire};

use crate::nats::{Bus, BusError, StoredMessage, protocol::headers::extension};

/// The maximum number of characters quoted of another event's name or key.
const QUOTED: usize = 200;

/// What identifies an event: an id alone does not, because two writers may use the same one.
///
/// The event's own headers and extensions count. Source, time, correlation, cause and trace do not: a repeated publish
/// has another time and another trace, and the relay adds what is missing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity<'a> {
    pub(crate) event: EventId,
    pub(crate) name: &'a str,
    pub(crate) version: u32,
    pub(crate) key: Option<&'a str>,
    pub(crate) payload: &'a [u8],
    pub(crate) own: Own<'a>,
}

/// Where the event's own headers and extensions come from. They are compared last, and rarely.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Own<'a> {
    Of(&'a Headers, &'a Extensions),
    /// In the form that the outbox stores.
    #[cfg_attr(not(feature = "outbox"), allow(dead_code))]
    Stored(&'a str),
}

/// What a stream holds at the position where an event's id was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    /// No message is there any more.
    Nothing,
    /// The event itself.
    Same,
    /// Another event, or a message that is not an event; in words: `sequence 17 of EVENTS has this id: user.created
    /// k1`.
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
            own: Own::Of(envelope.headers(), envelope.extensions()),
        }
    }
}

/// Maps header names in lower case to their values, together with the extensions.
fn lines(headers: &Headers, extensions: &Extensions) -> BTreeMap<String, String> {
    let headers = headers.iter();
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    let extensions = extensions.iter();
    let extensions = extensions.map(|(name, value)| (extension(name), value.to_owned()));
    headers.chain(extensions).collect()
}

impl Identity<'_> {
    /// Whether both are the same event.
    #[cfg(feature = "outbox")]
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.event == other.event
            && (self.name, self.version, self.key) == (other.name, other.version, other.key)
            && self.payload == other.payload
            && self.lines() == other.lines()
    }

    /// `None` when the stored headers cannot be read.
    fn lines(&self) -> Option<BTreeMap<String, String>> {
        let stored = match self.own {
            Own::Of(headers, extensions) => return Some(lines(headers, extensions)),
            Own::Stored(stored) => stored,
        };
        let (event, version) = (self.event, self.version);
        let read = wire::from_stored(event, self.name, version, self.key, stored, Bytes::new());
        read.ok()
            .map(|read| lines(read.headers(), read.extensions()))
    }

    /// `None` when the message is the event, else a description of the message.
    fn other(&self, kept: &StoredMessage) -> Option<String> {
        let headers = kept.headers.iter();
        let headers = headers.map(|(name, value)| (&**name, &**value));
        // A foreign event without an id of its own is identified by its position.
        let foreign = || format!("{}/{}", kept.subject, kept.sequence);
        let found = wire::read(&kept.subject, headers, kept.payload.clone(), foreign);
        let Ok(found) = found else {
            return Some(format!("a message to {}", quoted(&kept.subject)));
        };
        let (name, key) = (found.name().as_str(), found.key());
        let is_alike = name == self.name && key == self.key;
        let is_of_version = found.version() == self.version;
        let is_same = is_alike && is_of_version && found.id() == self.event;
        let has_payload = kept.payload == self.payload;
        if is_same && has_payload {
            let found = lines(found.headers(), found.extensions());
            if self.lines().is_none_or(|own| own == found) {
                return None;
            }
        }
        let mut other = quoted(name);
        if let Some(key) = key {
            other.push(' ');
            match self.key == Some(key) {
                // The key is already in the database, so it can hold it unchanged.
                true => other.push_str(key),
                false => other.push_str(&quoted(key)),
            }
        }
        Some(match (is_alike, is_of_version) {
            (true, true) if is_same && has_payload => format!("{other}, with other headers"),
            (true, true) if is_same => format!("{other}, with another payload"),
            (true, true) => format!("{other}, as the id of its message"),
            (true, false) => format!("{other}, of version {}", found.version()),
            (false, _) => other,
        })
    }
}

/// Text of another publisher: bounded, and escaped so that every database can hold it.
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
    /// What is stored at a sequence of a stream, compared with an event.
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

    fn kept(envelope: &Envelope) -> StoredMessage {
        let mut headers = Vec::new();
        let defaults = wire::Defaults::new("tests", DateTime::UNIX_EPOCH);
        wire::write_headers(envelope, defaults, |name, value| {
            headers.push((name.to_owned(), value.to_owned()));
        });
        StoredMessage {
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
    fn a_different_name_key_version_or_payload_is_named() {
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
    fn other_headers_differ_and_another_trace_or_spelling_does_not() {
        let own = || event("user.deleted", 1, Some("k"), "{}");
        let of = |tenant: &str| own().header("Tenant", tenant).unwrap();
        let said = Some("user.deleted k, with other headers");
        assert_eq!(other(&of("acme"), &own()).as_deref(), said);
        assert_eq!(other(&own(), &of("acme")).as_deref(), said);
        assert_eq!(other(&of("acme"), &of("bolt")).as_deref(), said);
        let extended = own().extension("region", "e\u{fc} \"1\"").unwrap();
        assert_eq!(other(&own(), &extended).as_deref(), said);
        assert_eq!(other(&extended, &extended), None);
        let again = own().header("tenant", "acme").unwrap();
        let again = again.with_correlation_id("order-7").unwrap();
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let again = again.traced(trace).unwrap();
        assert_eq!(other(&of("acme"), &again), None);
        assert_eq!(other(&again, &of("acme")), None);
        assert!(Identity::from(&again).is(&Identity::from(&of("acme"))));
        assert!(!Identity::from(&again).is(&Identity::from(&own())));
    }

    #[test]
    fn headers_of_a_row_are_compared_as_they_are_sent() {
        let sent = event("user.deleted", 1, Some("k"), "{}");
        let sent = sent.header("tenant", "acme").unwrap();
        let of_row = |stored| Identity {
            own: Own::Stored(stored),
            ..Identity::from(&sent)
        };
        let stored = wire::stored_headers(&sent);
        let by_hand = r#"{"TENANT":"acme","ce-correlationid":"7"}"#;
        assert_eq!(of_row(&stored).other(&kept(&sent)), None);
        assert_eq!(of_row(by_hand).other(&kept(&sent)), None);
        assert!(of_row("{}").other(&kept(&sent)).is_some());
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

    /// The text is written into a database, which may not accept the character, and is displayed.
    #[test]
    fn foreign_text_is_quoted_short_and_plain() {
        assert_eq!(quoted("a\u{0}\u{1f600}\n"), "a\\u{0}\\u{1f600}\\n");
        assert_eq!(quoted(&"x".repeat(9000)).len(), QUOTED + 3);
    }
}
