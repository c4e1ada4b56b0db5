//! A dead letter as it is read. Any publisher may have written to the stream, so every part of it may be missing.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer, ser::SerializeStruct};
use tidings_contract::{Envelope, EventId, wire};

use crate::{
    nats::{
        StoredMessage, counted,
        headers::{dead, redrive},
        identity_in, subjects,
    },
    observer::DeadLetterFacts,
    policy::{fingerprint::fingerprint, outcome::Cause},
};

/// A dead letter in the stream. A field that its writer left out is `None`.
///
/// Its JSON is complete: a message with its `subject`, `headers` and payload in the dead-letter stream of another
/// server is the same dead letter there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredDeadLetter {
    /// Its sequence in the dead-letter stream, from 1.
    pub sequence: u64,
    /// When the server stored it.
    pub stored_at: DateTime<Utc>,
    /// Its subject: `dead-letter.<subscriber>.<subject of the event>`.
    pub subject: String,
    /// The subscriber that dead-lettered the event.
    pub subscriber: String,
    /// The subject under which the event was published.
    pub event_subject: String,
    /// The event's id; `None` when the message is not an event.
    pub event: Option<EventId>,
    /// The event's name; its subject when the message is not an event.
    pub name: String,
    /// The event's version; 0 when the message is not an event.
    pub version: u32,
    /// The event's key.
    pub key: Option<String>,
    /// The kind of cause.
    pub cause: Option<Cause>,
    /// The error's text; empty when it was left out.
    pub error: String,
    /// The fingerprint of the error: equal for errors of one kind.
    pub fingerprint: Option<String>,
    /// How many attempts there were.
    pub attempts: Option<u32>,
    /// When the first of them failed.
    pub first_failed_at: Option<DateTime<Utc>>,
    /// When the last of them failed.
    pub last_failed_at: Option<DateTime<Utc>>,
    /// The type of the handler that failed.
    pub handler: Option<String>,
    /// The stream that the event is in.
    pub stream: Option<String>,
    /// The event's sequence there.
    pub stream_sequence: Option<u64>,
    /// The event's unique identity: stream, sequence and nanosecond. No other message ever has the same.
    pub identity: Option<String>,
    /// The consumer sequence of the delivery that failed.
    pub consumer_sequence: Option<u64>,
    /// How often the event was redriven before.
    pub redrives: u32,
    /// The parts left out because the message was too large: `error`, `headers`, `payload`.
    pub truncated: Option<String>,
    /// All headers of the dead letter: those of the event, and those that describe the failure.
    pub headers: Vec<(String, String)>,
    /// The payload of the event.
    pub payload: Bytes,
}

impl StoredDeadLetter {
    /// What observers are told of it.
    pub(super) fn facts(&self) -> DeadLetterFacts<'_> {
        DeadLetterFacts {
            sequence: self.sequence,
            subscriber: &self.subscriber,
            event: self.event,
            name: &self.name,
            key: self.key.as_deref(),
        }
    }

    pub(crate) fn of(kept: StoredMessage) -> Self {
        let headers = Headers(&kept.headers);
        let (subscriber, event_subject) = subjects::parts_of_dead_letter(&kept.subject);
        let identity = headers.text(dead::IDENTITY).or_else(|| {
            let id = headers.get(wire::MESSAGE_ID)?;
            identity_in(id).map(str::to_owned)
        });
        let cause = headers.get(dead::CAUSE).map(Cause::from);
        let error = headers.text(dead::ERROR).unwrap_or_default();
        let of_error = || Some(fingerprint(cause.as_ref()?.as_str(), &error));
        let envelope = headers.envelope(event_subject, &kept.payload, identity.as_deref());
        let name = envelope
            .as_ref()
            .map_or(event_subject, |envelope| envelope.name().as_str());
        Self {
            sequence: kept.sequence,
            stored_at: kept.stored_at,
            subscriber: subscriber.to_owned(),
            event_subject: event_subject.to_owned(),
            event: envelope.as_ref().map(Envelope::id),
            name: name.to_owned(),
            version: envelope.as_ref().map_or(0, Envelope::version),
            key: envelope.as_ref().and_then(Envelope::key).map(str::to_owned),
            fingerprint: headers.text(dead::FINGERPRINT).or_else(of_error),
            attempts: headers.get(dead::ATTEMPTS).and_then(counted),
            first_failed_at: headers.parsed(dead::FIRST_FAILED_AT),
            last_failed_at: headers.parsed(dead::AT),
            handler: headers.text(dead::HANDLER),
            stream: headers.text(dead::STREAM),
            stream_sequence: headers.parsed(dead::SEQUENCE),
            consumer_sequence: headers.parsed(dead::CONSUMER_SEQUENCE),
            redrives: headers.get(redrive::COUNT).and_then(counted).unwrap_or(0),
            truncated: headers.text(dead::TRUNCATED),
            identity,
            cause,
            error,
            subject: kept.subject,
            headers: kept.headers,
            payload: kept.payload,
        }
    }

    /// The value of a header of the dead letter.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        Headers(&self.headers).get(name)
    }
}

struct Headers<'a>(&'a [(String, String)]);

impl<'a> Headers<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        let mut all = self.0.iter();
        let (_, value) = all.find(|(known, _)| known == name)?;
        Some(value)
    }

    fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    fn parsed<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.parse().ok()
    }

    /// The event as the subscriber saw it, including its id.
    fn envelope(&self, subject: &str, payload: &Bytes, identity: Option<&str>) -> Option<Envelope> {
        let original = self.get(dead::MESSAGE_ID);
        let headers = self.0.iter().map(|(name, value)| (&**name, &**value));
        let headers = headers.filter(|(name, _)| *name != wire::MESSAGE_ID);
        let headers = headers.chain(original.map(|id| (wire::MESSAGE_ID, id)));
        let place = || identity.unwrap_or_default().to_owned();
        wire::read(subject, headers, payload.clone(), place).ok()
    }
}

impl Serialize for StoredDeadLetter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut headers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, value) in &self.headers {
            headers.entry(name).or_default().push(value);
        }
        let mut object = serializer.serialize_struct("StoredDeadLetter", 25)?;
        object.serialize_field("sequence", &self.sequence)?;
        object.serialize_field("stored_at", &self.stored_at)?;
        object.serialize_field("subscriber", &self.subscriber)?;
        object.serialize_field("event_subject", &self.event_subject)?;
        object.serialize_field("event", &self.event)?;
        object.serialize_field("name", &self.name)?;
        object.serialize_field("version", &self.version)?;
        object.serialize_field("key", &self.key)?;
        object.serialize_field("cause", &self.cause)?;
        object.serialize_field("error", &self.error)?;
        object.serialize_field("fingerprint", &self.fingerprint)?;
        object.serialize_field("attempts", &self.attempts)?;
        object.serialize_field("first_failed_at", &self.first_failed_at)?;
        object.serialize_field("last_failed_at", &self.last_failed_at)?;
        object.serialize_field("handler", &self.handler)?;
        object.serialize_field("stream", &self.stream)?;
        object.serialize_field("stream_sequence", &self.stream_sequence)?;
        object.serialize_field("identity", &self.identity)?;
        object.serialize_field("consumer_sequence", &self.consumer_sequence)?;
        object.serialize_field("redrives", &self.redrives)?;
        object.serialize_field("truncated", &self.truncated)?;
        object.serialize_field("subject", &self.subject)?;
        object.serialize_field("headers", &headers)?;
        match std::str::from_utf8(&self.payload) {
            Ok(text) => object.serialize_field("payload", text)?,
            Err(_) => object.serialize_field("payload_base64", &base64(&self.payload))?,
        }
        object.end()
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kept(subject: &str, headers: &[(&str, &str)], payload: &[u8]) -> StoredMessage {
        let headers = headers.iter();
        let headers = headers.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        StoredMessage {
            sequence: 1,
            stored_at: DateTime::UNIX_EPOCH,
            subject: subject.to_owned(),
            headers: headers.collect(),
            payload: payload.to_vec().into(),
        }
    }

    #[test]
    fn a_foreign_event_keeps_the_id_that_the_subscriber_saw() {
        let subject = "dead-letter.welcome.user.created";
        let by_id = [
            ("Nats-Msg-Id", "dead/welcome/E/1/2"),
            ("tidings-dead-message-id", "m1"),
        ];
        let letter = StoredDeadLetter::of(kept(subject, &by_id, b"{}"));
        let seen = EventId::of_foreign("message/user.created", "m1");
        assert_eq!(letter.event, Some(seen));

        let letter = StoredDeadLetter::of(kept(subject, &by_id[..1], b"{}"));
        assert_eq!(letter.identity.as_deref(), Some("E/1/2"));
        assert_eq!(letter.event, Some(EventId::of_foreign("stream", "E/1/2")));
    }

    #[test]
    fn a_payload_that_is_no_text_is_shown_in_base64() {
        let letter = StoredDeadLetter::of(kept("dead-letter.a.b", &[], &[0, 255]));
        let json = serde_json::to_value(&letter).unwrap();
        assert_eq!(json["payload_base64"], "AP8=");
        assert_eq!(json.get("payload"), None);
    }

    proptest! {
        #[test]
        fn every_message_in_the_stream_is_read_and_shown(
            subject in "(dead-letter\\.)?[a-z.]{0,12}|\\PC{0,12}",
            headers in proptest::collection::vec(("(tidings-dead-|ce-|Nats-)?[a-zA-Z-]{1,12}", "\\PC{0,12}"), 0..6),
            payload in proptest::collection::vec(any::<u8>(), 0..16),
        ) {
            let headers: Vec<_> = headers.iter().map(|(n, v)| (&**n, &**v)).collect();
            let letter = StoredDeadLetter::of(kept(&subject, &headers, &payload));
            prop_assert!(serde_json::to_string(&letter).is_ok());
        }
    }
}
