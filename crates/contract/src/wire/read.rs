//! Reads an envelope from a NATS message. It trusts no header and no payload: any client may have published the
//! message.

use std::borrow::Cow;

use bytes::Bytes;

use super::{
    CAUSATION, CONTENT_ENCODING, CONTENT_TYPE, CORRELATION, DATA_CONTENT_TYPE, ID, MESSAGE_ID,
    PARTITION_KEY, SOURCE, SPEC_VERSION, SUBJECT, TIME, TRACEPARENT, TRACESTATE, TYPE,
    media::{self, Mode},
    structured,
    value::value_of,
};
use crate::{
    Envelope, EventId, Extensions, Headers, Lineage, Name, NameError,
    envelope::is_key,
    headers::{checked, is_reserved},
    lineage::is_carried,
};

/// Why a message is not an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Neither `ce-type` nor the subject is an event name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The message has an unsupported format, or its content does not match its declared format.
    #[error("{0}")]
    Malformed(String),
}

/// Reads an envelope from a message: CloudEvents in binary mode, or in structured mode as JSON
/// (`content-type: application/cloudevents+json`), where the attributes are in the payload.
///
/// * Name and version: `ce-type`, else the subject and version 0.
/// * Id: `ce-id`. When another publisher made it, it is unique within `ce-source` only, and the identity is derived
///   from both. Without `ce-id`: `Nats-Msg-Id` (unique within the name), else `foreign_id`, a text that identifies this
///   message only, such as its stream, its sequence and the time at which it was stored. A sequence alone is not
///   enough: it occurs again when a stream is deleted and recreated.
/// * Key: `ce-partitionkey`, else `ce-subject`.
/// * Other attributes are [`Extensions`].
///
/// The names of our own headers are matched in any letter case, as CloudEvents requires; `Nats-Msg-Id` only in the
/// server's spelling. The first value of a repeated header counts. A value in double quotes is unquoted. What an
/// envelope cannot carry is left out: control characters, a lineage over [`Lineage::MAX_BYTES`], other reserved
/// headers.
///
/// # Errors
/// [`ReadError::Name`] when neither `ce-type` nor the subject is an event name; [`ReadError::Malformed`] for a batch, a
/// `content-encoding`, other formats of CloudEvents, and a structured payload that cannot be read.
pub fn read<'a>(
    subject: &str,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    payload: Bytes,
    foreign_id: impl FnOnce() -> String,
) -> Result<Envelope, ReadError> {
    let mut found = Found::default();
    headers.for_each(|(name, value)| found.take(name, value));
    match media::mode(found.raw(CONTENT_TYPE), found.raw(CONTENT_ENCODING))? {
        Mode::Binary => found.envelope(subject, payload, foreign_id),
        Mode::Structured => {
            let (attributes, payload) = structured::open(&payload)?;
            let mut opened = found.without_attributes();
            for (name, value) in &attributes {
                opened.take(name, value);
            }
            opened.envelope(subject, payload, foreign_id)
        }
    }
}

/// Whether the attributes of a message are in its payload, so that its headers alone cannot be read as an event.
/// `content_type` is the value of that header.
#[must_use]
pub fn is_in_payload(content_type: &str) -> bool {
    media::is_cloudevents(content_type)
}

/// The headers from which an envelope is read, except `Nats-Msg-Id`.
const READ: [&str; 14] = [
    ID,
    TYPE,
    SOURCE,
    TIME,
    SUBJECT,
    PARTITION_KEY,
    CORRELATION,
    CAUSATION,
    TRACEPARENT,
    TRACESTATE,
    SPEC_VERSION,
    CONTENT_TYPE,
    DATA_CONTENT_TYPE,
    CONTENT_ENCODING,
];

/// The headers of a message by purpose. Clients pass them in any order (async-nats from a hash map), and the result
/// must not depend on that order: an id that changed between two deliveries would pass the inbox twice.
#[derive(Default)]
struct Found<'a> {
    message_id: Option<&'a str>,
    /// Spelling and value of each of `READ`.
    system: [Option<(&'a str, &'a str)>; READ.len()],
    own: Vec<(&'a str, &'a str)>,
    /// Attributes that are none of `READ`, without `ce-`.
    extensions: Vec<(&'a str, &'a str)>,
    /// The attributes come from a structured payload, which Tidings never writes.
    is_opened: bool,
}

impl<'a> Found<'a> {
    fn take(&mut self, name: &'a str, value: &'a str) {
        if name == MESSAGE_ID {
            self.message_id.get_or_insert(value);
            return;
        }
        let at = READ
            .iter()
            .position(|known| known.eq_ignore_ascii_case(name));
        match at.and_then(|at| self.system.get_mut(at)) {
            // Of several spellings the lower-case one wins: it is ours, and it sorts last.
            Some(Some((spelling, _))) if name <= *spelling => {}
            Some(slot) => *slot = Some((name, value)),
            None => match extension(name) {
                Some(extension) => self.extensions.push((extension, value)),
                None if is_reserved(name) => {}
                None => self.own.push((name, value)),
            },
        }
    }

    /// Drops every attribute, and keeps the other headers.
    fn without_attributes(mut self) -> Self {
        for (slot, name) in self.system.iter_mut().zip(READ) {
            if ![TRACEPARENT, TRACESTATE].contains(&name) {
                *slot = None;
            }
        }
        self.extensions.clear();
        self.is_opened = true;
        self
    }

    fn envelope(
        self,
        subject: &str,
        payload: Bytes,
        foreign_id: impl FnOnce() -> String,
    ) -> Result<Envelope, ReadError> {
        let (name, version) = match self.attribute(TYPE).as_deref().and_then(parse_type) {
            Some(kind) => kind,
            None => (Name::parse(subject)?, 0),
        };
        let extensions = self.extensions();
        Ok(Envelope {
            id: self.id(&name, foreign_id),
            name,
            version,
            key: self.key(),
            time: self.attribute(TIME).and_then(|time| time.parse().ok()),
            source: self.text(SOURCE),
            lineage: self.lineage(&extensions),
            media_type: self.media_type(),
            extensions,
            headers: self.own(),
            payload,
        })
    }

    fn raw(&self, wanted: &str) -> Option<&'a str> {
        let at = READ.iter().position(|known| *known == wanted)?;
        let (_, value) = (*self.system.get(at)?)?;
        Some(value)
    }

    fn attribute(&self, wanted: &str) -> Option<Cow<'a, str>> {
        self.raw(wanted)
            .map(value_of)
            .filter(|value| !value.is_empty())
    }

    fn text(&self, wanted: &str) -> Option<String> {
        self.attribute(wanted)
            .filter(|text| is_carried(text))
            .map(Cow::into_owned)
    }

    fn id(&self, name: &Name, foreign_id: impl FnOnce() -> String) -> EventId {
        if let Some(id) = self.attribute(ID) {
            let uuid: Option<EventId> = id.parse().ok();
            if let Some(uuid) = uuid.filter(|_| self.is_ours(&id)) {
                return uuid;
            }
            // A UUID in any spelling is one id.
            let id = uuid.map_or(id, |uuid| uuid.to_string().into());
            let source = self.attribute(SOURCE).unwrap_or_default();
            return EventId::derived(&format!("ce-id/{source}"), &id);
        }
        match self.message_id {
            Some(id) if !id.is_empty() => EventId::of_foreign(&format!("message/{name}"), id),
            _ => EventId::of_foreign("stream", &foreign_id()),
        }
    }

    /// Whether Tidings wrote the message: its `Nats-Msg-Id` begins with the event's id, or, in a copy without that
    /// header, every header that Tidings always writes is present. Such an id is unique regardless of the source.
    fn is_ours(&self, id: &str) -> bool {
        if let Some(known) = self.message_id.filter(|known| !known.is_empty()) {
            let rest = known.strip_prefix(id);
            return rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        }
        let always = [SPEC_VERSION, TIME, CORRELATION];
        !self.is_opened
            && always.iter().all(|name| self.raw(name).is_some())
            && self.raw(PARTITION_KEY) == self.raw(SUBJECT)
            && self
                .attribute(TYPE)
                .as_deref()
                .and_then(parse_type)
                .is_some()
    }

    fn key(&self) -> Option<String> {
        [PARTITION_KEY, SUBJECT]
            .into_iter()
            .filter_map(|header| self.attribute(header))
            .find(|key| is_key(key))
            .map(Cow::into_owned)
    }

    fn lineage(&self, extensions: &Extensions) -> Lineage {
        // The trace context is not an attribute of CloudEvents, so it is not percent-encoded. The extension of that
        // name holds the context in which the trace started.
        let trace = |wanted| {
            let text = self.raw(wanted).or_else(|| extensions.get(wanted));
            text.filter(|text| is_carried(text)).map(str::to_owned)
        };
        Lineage {
            correlation_id: self.text(CORRELATION),
            causation_id: self.text(CAUSATION),
            traceparent: trace(TRACEPARENT),
            tracestate: trace(TRACESTATE),
        }
    }

    /// The payload's media type, when it is not JSON.
    fn media_type(&self) -> Option<String> {
        let said = self.attribute(DATA_CONTENT_TYPE);
        let said = said.or_else(|| self.raw(CONTENT_TYPE).map(Cow::Borrowed))?;
        let is_other = !said.trim().is_empty() && !media::is_json(&said);
        is_other.then(|| said.into_owned())
    }

    fn extensions(&self) -> Extensions {
        let mut extensions = Extensions::default();
        if self.extensions.is_empty() {
            return extensions;
        }
        // As with the other attributes, the lower-case one of several spellings wins.
        let mut found = self.extensions.clone();
        found.sort_by_key(|(name, _)| *name);
        for (name, value) in found {
            // `read` leaves out what cannot be carried.
            let _ = extensions.keep(name.to_ascii_lowercase(), value_of(value).into_owned());
        }
        extensions
    }

    fn own(self) -> Headers {
        let own = self.own.into_iter();
        // `read` leaves out refused headers.
        let own = own.filter_map(|(name, value)| checked(name.to_owned(), value.to_owned()).ok());
        // The first spelling has the first value.
        Headers::sorted(own.collect(), |first, _| first)
    }
}

/// The name of an attribute, from the name of its header.
fn extension(header: &str) -> Option<&str> {
    let (prefix, name) = header.split_at_checked(3)?;
    prefix.eq_ignore_ascii_case("ce-").then_some(name)
}

/// `user.created.v1` is version 1 of `user.created`.
fn parse_type(text: &str) -> Option<(Name, u32)> {
    let (name, digits) = text.rsplit_once(".v")?;
    let version: u32 = digits.parse().ok()?;
    // Each version has one spelling: neither "+1" nor "01".
    let exact = digits == "0" || digits.starts_with(|first: char| matches!(first, '1'..='9'));
    exact.then_some((Name::parse(name).ok()?, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a foreign publisher's message on `user.created`.
    fn foreign(headers: &[(&str, &str)]) -> Envelope {
        let headers = headers.iter().copied();
        read("user.created", headers, Bytes::from("{}"), || {
            "S/7/2026".into()
        })
        .unwrap()
    }

    #[test]
    fn a_message_without_headers_has_an_id_of_subject_and_position() {
        let first = foreign(&[]);
        assert_eq!(first, foreign(&[]));
        let said = (first.name().as_str(), first.version(), first.key());
        assert_eq!(said, ("user.created", 0, None));
    }

    #[test]
    fn a_message_id_is_the_identity() {
        let uuid = "0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11";
        let id = |value| foreign(&[(MESSAGE_ID, value)]).id();
        assert_eq!(id(uuid).to_string(), uuid);
        assert_eq!(id("order-7"), id("order-7"));
        assert_ne!(id("order-7"), id("order-8"));
    }

    #[test]
    fn one_message_id_on_two_names_is_two_events() {
        let id = |kind| foreign(&[(MESSAGE_ID, "7"), (TYPE, kind)]).id();
        assert_ne!(id("order.made.v1"), id("order.paid.v1"));
    }

    #[test]
    fn one_id_of_two_sources_is_two_events() {
        let id = |source| foreign(&[(ID, "7"), (SOURCE, source)]).id();
        assert_eq!(id("shop"), id("shop"));
        assert_ne!(id("shop"), id("bank"));
    }

    #[test]
    fn one_uuid_of_two_sources_is_two_events() {
        let uuid = "0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11";
        let id = |source| foreign(&[(ID, uuid), (SOURCE, source)]).id();
        assert_eq!(id("shop"), id("shop"));
        assert_ne!(id("shop"), id("bank"));
        assert_ne!(id("shop").to_string(), uuid);
        let spelt = foreign(&[(ID, &uuid.to_uppercase()), (SOURCE, "shop")]).id();
        assert_eq!(spelt, id("shop"));
        let again = format!("{uuid}/0190e6e4");
        for known in [uuid, &*again] {
            let ours = foreign(&[(ID, uuid), (MESSAGE_ID, known), (SOURCE, "bank")]);
            assert_eq!(ours.id().to_string(), uuid);
        }
        let copied = [
            ("ce-specversion", "1.0"),
            (ID, uuid),
            (TYPE, "user.created.v1"),
            (TIME, "2026-11-21T09:30:00Z"),
            (CORRELATION, uuid),
        ];
        assert_eq!(foreign(&copied).id().to_string(), uuid);
        assert_ne!(foreign(&copied[..4]).id().to_string(), uuid);
        let other = format!("{uuid}0");
        let others = foreign(&[(ID, uuid), (MESSAGE_ID, &other), (SOURCE, "shop")]);
        assert_eq!(others.id(), id("shop"));
    }

    #[test]
    fn an_empty_id_is_none() {
        let place = foreign(&[]).id();
        assert_eq!(foreign(&[(ID, ""), (MESSAGE_ID, "")]).id(), place);
    }

    #[test]
    fn a_message_id_that_the_server_does_not_know_is_none() {
        assert_eq!(foreign(&[("nats-msg-id", "7")]).id(), foreign(&[]).id());
    }

    #[test]
    fn with_a_foreign_type_the_subject_names_the_event() {
        for kind in [
            "com.example.thing",
            "user.deleted",
            "user.deleted.v",
            "user.deleted.v-1",
            "user.deleted.v+1",
            "user.deleted.v01",
            "user.deleted.v4294967296",
            "User.deleted.v1",
            "",
        ] {
            let read = foreign(&[(TYPE, kind)]);
            let said = (read.name().as_str(), read.version());
            assert_eq!(said, ("user.created", 0), "{kind}");
        }
    }

    #[test]
    fn a_type_of_ours_names_event_and_version() {
        for (kind, version) in [
            ("user.deleted.v3", 3),
            ("user%2Edeleted.v0", 0),
            ("user.deleted.v4294967295", u32::MAX),
        ] {
            let read = foreign(&[(TYPE, kind)]);
            let said = (read.name().as_str(), read.version());
            assert_eq!(said, ("user.deleted", version), "{kind}");
        }
    }

    #[test]
    fn neither_type_nor_subject_is_an_error() {
        let nameless = read("$SYS.x", [].into_iter(), Bytes::new(), String::new);
        assert!(nameless.is_err());
    }

    #[test]
    fn our_headers_are_known_in_any_case() {
        let read = foreign(&[
            ("Ce-Id", "0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11"),
            ("CE-Type", "user.deleted.v2"),
            ("Ce-Partitionkey", "7"),
            ("Traceparent", "00-a-b-01"),
            ("Content-Type", "application/json"),
            (MESSAGE_ID, "0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11"),
        ]);
        assert!(read.id().to_string().starts_with("0190e6e4"));
        assert_eq!((read.name().as_str(), read.version()), ("user.deleted", 2));
        assert_eq!(read.key(), Some("7"));
        assert_eq!(read.lineage().traceparent.as_deref(), Some("00-a-b-01"));
        assert!(read.headers().is_empty());
    }

    #[test]
    fn repeated_headers_read_the_same_in_any_order() {
        let forward = foreign(&[
            ("ce-id", "a"),
            ("ce-id", "b"),
            ("Ce-Id", "c"),
            ("CE-ID", "d"),
        ]);
        let backward = foreign(&[
            ("CE-ID", "d"),
            ("Ce-Id", "c"),
            ("ce-id", "a"),
            ("ce-id", "b"),
        ]);
        assert_eq!(forward.id(), backward.id());
        assert_eq!(forward.id(), foreign(&[("ce-id", "a")]).id());
        assert_eq!(
            foreign(&[("x", "1"), ("x", "2"), ("X", "3"), ("a", "4")]),
            foreign(&[("a", "4"), ("X", "3"), ("x", "1"), ("x", "2")]),
        );
    }

    #[test]
    fn a_key_that_could_not_be_stored_is_none() {
        for key in ["%00", "a%0Ab", "%20a", ""] {
            assert_eq!(foreign(&[(PARTITION_KEY, key)]).key(), None, "{key}");
        }
        let read = foreign(&[(PARTITION_KEY, "%00"), (SUBJECT, "7")]);
        assert_eq!(read.key(), Some("7"));
    }

    #[test]
    fn a_long_foreign_key_keeps_order_and_is_not_republished() {
        use crate::{EnvelopeError, IntoEnvelope as _};
        let long = "k".repeat(Envelope::MAX_KEY_BYTES + 1);
        let read = foreign(&[(TYPE, "user.created.v1"), (SUBJECT, &long)]);
        assert_eq!(read.key(), Some(&*long));
        let refused = read.into_envelope();
        assert!(matches!(refused, Err(EnvelopeError::Key { .. })));
    }

    #[test]
    fn an_event_without_a_version_is_not_republished() {
        use crate::{EnvelopeError, IntoEnvelope as _};
        let refused = foreign(&[]).into_envelope();
        assert!(matches!(refused, Err(EnvelopeError::Version(_))));
    }

    #[test]
    fn headers_that_cannot_be_passed_on_are_left_out() {
        let giant = "g".repeat(60_000);
        let read = foreign(&[
            (SOURCE, "a%0D%0Ab"),
            (TIME, "yesterday"),
            (CORRELATION, &giant),
            (CAUSATION, "%20a"),
            (TRACEPARENT, "a\rb"),
            (TRACESTATE, &giant),
            ("x y", "1"),
            ("x", "1\r2"),
            ("ce-no-attribute", "1"),
            ("ce-tenant", "a%0Ab"),
            ("Nats-Rollup", "all"),
            ("tidings-redrives", "4294967295"),
        ]);
        assert_eq!(read, foreign(&[]));
    }
}
