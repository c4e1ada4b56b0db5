//! The form of an envelope as a NATS message: CloudEvents 1.0, written in binary mode, read in structured mode too.
//! Never how it is sent.
//!
//! The subject is the event's name, the payload its JSON. Attribute values are percent-encoded as the CloudEvents
//! bindings require, so that a key in any script survives. The outbox uses the same header names for attributes that
//! have no column of their own.
//!
//! ```
//! use tidings_contract::{Envelope, wire};
//!
//! let sent = Envelope::raw("user.created", 1, Some("Zo\u{eb}"), r#"{"id":"Zo\u{eb}"}"#)?;
//! let defaults = wire::Defaults::new("accounts", std::time::SystemTime::now().into());
//! let mut headers = Vec::new();
//! wire::write_headers(&sent, defaults, |name, value| headers.push((name.to_owned(), value.to_owned())));
//! assert!(headers.contains(&("ce-partitionkey".into(), "Zo%C3%AB".into())));
//!
//! let lines = headers.iter().map(|(name, value)| (&**name, &**value));
//! let got = wire::read("user.created", lines, sent.payload().clone(), || unreachable!())?;
//! assert_eq!((got.id(), got.key()), (sent.id(), sent.key()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod media;
mod percent;
mod read;
mod stored;
mod structured;
mod value;

use chrono::{DateTime, SecondsFormat, Utc};

use self::percent::encode;
pub use self::read::{ReadError, is_in_payload, read};
pub use self::stored::{StoredError, from_stored, stored_headers};
use crate::Envelope;

/// The header with which the server finds duplicates.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";
/// The most bytes of headers that JetStream accepts, including the first line and the empty line. Above it the server
/// answers with error 10097.
pub const MAX_HEADER_BYTES: usize = 65_535;
/// The most bytes of headers that Tidings adds to a message when it sends it in an atomic batch.
pub const BATCH_HEADER_BYTES: usize = 256;
/// The source of an event whose publisher sets none.
pub const DEFAULT_SOURCE: &str = "tidings";

/// The header that carries the event's id, regardless of the id by which the server finds duplicates.
pub const ID: &str = "ce-id";
const TYPE: &str = "ce-type";
const SOURCE: &str = "ce-source";
const TIME: &str = "ce-time";
const SUBJECT: &str = "ce-subject";
const PARTITION_KEY: &str = "ce-partitionkey";
const CORRELATION: &str = "ce-correlationid";
const CAUSATION: &str = "ce-causationid";
const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";
const SPEC_VERSION: &str = "ce-specversion";
const DATA_CONTENT_TYPE: &str = "ce-datacontenttype";
const CONTENT_TYPE: &str = "content-type";
const CONTENT_ENCODING: &str = "content-encoding";
/// The media type of an event's payload.
const JSON: &str = "application/json";

/// Values for an envelope that does not set them itself.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Defaults<'a> {
    /// The publishing service.
    pub source: &'a str,
    /// When the event was written.
    pub time: DateTime<Utc>,
}

impl<'a> Defaults<'a> {
    /// The publishing service, and when the event was written.
    #[must_use]
    pub const fn new(source: &'a str, time: DateTime<Utc>) -> Self {
        Self { source, time }
    }
}

/// Passes every header of the message to `put`, in a fixed order.
pub fn write_headers(envelope: &Envelope, defaults: Defaults<'_>, mut put: impl FnMut(&str, &str)) {
    let id = envelope.id.to_string();
    let lineage = &envelope.lineage;
    let time = envelope.time.unwrap_or(defaults.time);
    put(MESSAGE_ID, &id);
    put(SPEC_VERSION, "1.0");
    put(ID, &id);
    put(TYPE, &format!("{}.v{}", envelope.name, envelope.version));
    put(
        SOURCE,
        &encode(envelope.source.as_deref().unwrap_or(defaults.source)),
    );
    put(TIME, &time_text(time));
    if let Some(key) = &envelope.key {
        let key = encode(key);
        put(SUBJECT, &key);
        put(PARTITION_KEY, &key);
    }
    // Readers that follow the binding use the header without the prefix, some SDKs only the one with it.
    put(CONTENT_TYPE, JSON);
    put(DATA_CONTENT_TYPE, JSON);
    put(
        CORRELATION,
        &encode(lineage.correlation_id.as_deref().unwrap_or(&id)),
    );
    if let Some(cause) = &lineage.causation_id {
        put(CAUSATION, &encode(cause));
    }
    if let Some(traceparent) = &lineage.traceparent {
        put(TRACEPARENT, traceparent);
    }
    if let Some(tracestate) = &lineage.tracestate {
        put(TRACESTATE, tracestate);
    }
    for (name, value) in envelope.extensions.iter() {
        put(&format!("ce-{name}"), &encode(value));
    }
    for (name, value) in envelope.headers.iter() {
        put(name, value);
    }
}

/// The bytes of headers that the message has on the wire, including those of an atomic batch. [`MAX_HEADER_BYTES`]
/// limits this number.
#[must_use]
pub fn header_bytes(envelope: &Envelope, defaults: Defaults<'_>) -> usize {
    const FRAME: usize = "NATS/1.0\r\n\r\n".len();
    let mut lines = 0;
    write_headers(envelope, defaults, |name, value| {
        lines += name.len() + value.len() + ": \r\n".len();
    });
    FRAME + lines + BATCH_HEADER_BYTES
}

/// An upper bound of [`header_bytes`], computed without writing a header: a fast check for events that are far below
/// every limit.
#[must_use]
pub fn header_bytes_at_most(envelope: &Envelope, defaults: Defaults<'_>) -> usize {
    /// Names, ids, times, version and separators of all our headers, and the headers of a batch.
    const OURS: usize = 1024;
    /// One byte becomes three: `%41`.
    const ENCODED: usize = 3;
    let length = |text: Option<&str>| text.map_or(0, str::len);
    let lineage = &envelope.lineage;
    let source = envelope.source.as_deref().unwrap_or(defaults.source);
    let encoded = source.len()
        + 2 * length(envelope.key.as_deref())
        + length(lineage.correlation_id.as_deref())
        + length(lineage.causation_id.as_deref());
    let plain = envelope.name.as_str().len()
        + length(lineage.traceparent.as_deref())
        + length(lineage.tracestate.as_deref());
    let users = envelope.headers.iter();
    let users: usize = users
        .map(|(name, value)| name.len() + value.len() + ": \r\n".len())
        .sum();
    let extensions = envelope.extensions.iter();
    let extensions: usize = extensions
        .map(|(name, value)| "ce-: \r\n".len() + name.len() + ENCODED * value.len())
        .sum();
    OURS + ENCODED * encoded + plain + extensions + users
}

fn time_text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    type Lines = Vec<(String, String)>;

    const DEFAULTS: Defaults<'_> = Defaults {
        source: DEFAULT_SOURCE,
        time: DateTime::UNIX_EPOCH,
    };

    fn written(envelope: &Envelope) -> Lines {
        let mut lines = Vec::new();
        write_headers(envelope, DEFAULTS, |name, value| {
            lines.push((name.to_owned(), value.to_owned()));
        });
        lines
    }

    fn sorted(envelope: &Envelope) -> Lines {
        let mut lines = written(envelope);
        lines.sort();
        lines
    }

    fn read_lines(lines: &Lines, payload: &Bytes) -> Envelope {
        let headers = lines.iter().map(|(name, value)| (&**name, &**value));
        read("user.created", headers, payload.clone(), || "S/1".into()).unwrap()
    }

    fn through_the_outbox(envelope: &Envelope) -> Envelope {
        from_stored(
            envelope.id(),
            envelope.name().as_str(),
            envelope.version(),
            envelope.key(),
            &stored_headers(envelope),
            envelope.payload().clone(),
        )
        .unwrap()
    }

    #[test]
    fn header_bytes_are_those_on_the_wire() {
        let envelope = Envelope::raw("user.created", 1, Some("\u{e9}"), "{}").unwrap();
        let envelope = envelope.header("x-a", "\u{e9}").unwrap();
        let mut block = "NATS/1.0\r\n".to_owned();
        for (name, value) in written(&envelope) {
            block.push_str(&format!("{name}: {value}\r\n"));
        }
        block.push_str("\r\n");
        let bytes = header_bytes(&envelope, DEFAULTS);
        assert_eq!(bytes, block.len() + BATCH_HEADER_BYTES);
    }

    #[test]
    fn the_longest_system_headers_are_within_the_bound() {
        let key = "\u{e9}".repeat(128);
        let envelope = Envelope::raw("user.created", 1, Some(&key), "{}").unwrap();
        let version = u32::MAX;
        let envelope = Envelope {
            version,
            ..envelope
        };
        let envelope = envelope.at(DateTime::<Utc>::MAX_UTC);
        let defaults = Defaults {
            source: &key,
            ..DEFAULTS
        };
        assert!(header_bytes(&envelope, defaults) <= header_bytes_at_most(&envelope, defaults));
    }

    #[test]
    fn a_trace_context_is_not_percent_encoded() {
        let state = "vendor=a%20b";
        let headers = [(TRACEPARENT, "00-a-b-01"), (TRACESTATE, state)];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let envelope = read_lines(&headers.to_vec(), &Bytes::new());
        assert_eq!(envelope.lineage().tracestate.as_deref(), Some(state));
        let line = (TRACESTATE.to_owned(), state.to_owned());
        assert!(written(&envelope).contains(&line));
    }

    prop_compose! {
        fn perhaps_an_envelope()(
            key in proptest::option::of("\\PC{1,20}"),
            version in 1u32..9,
            correlation in proptest::option::of("\\PC{1,20}"),
            trace in proptest::option::of("[ -~]{1,20}"),
            headers in proptest::collection::vec(("[xX]-[a-z]{1,6}", "\\PC{0,12}"), 0..4),
            extensions in proptest::collection::vec(("[a-z0-9]{1,20}", "\\PC{1,12}"), 0..3),
            payload in proptest::collection::vec(any::<u8>(), 0..64),
        ) -> Option<Envelope> {
            let mut envelope = Envelope::raw("user.created", version, key.as_deref(), payload).ok()?;
            if let Some(correlation) = correlation {
                envelope = envelope.with_correlation_id(correlation).ok()?;
            }
            if let Some(trace) = trace {
                envelope = envelope.traced(trace).ok()?;
            }
            for (name, value) in headers {
                envelope = envelope.header(name, value).ok()?;
            }
            for (name, value) in extensions {
                envelope = envelope.extension(name, value).ok()?;
            }
            Some(envelope.at(DateTime::from_timestamp_micros(1_700_000_000_123_456)?))
        }
    }

    fn any_envelope() -> impl Strategy<Value = Envelope> {
        perhaps_an_envelope().prop_filter_map("a part is refused", |envelope| envelope)
    }

    fn any_headers() -> impl Strategy<Value = Lines> {
        let attributes =
            "ce-(id|source|time|subject|partitionkey|correlationid|causationid|[A-Za-z0-9]{1,3})";
        let names = format!("{attributes}|trace(parent|state)|[!-~]{{1,4}}");
        let names = proptest::string::string_regex(&names).unwrap();
        proptest::collection::vec((names, "[ -~\u{e9}]{0,6}|(%[0-9a-f]{2}){1,3}"), 0..8)
    }

    proptest! {
        #[test]
        fn an_envelope_survives_the_wire(envelope in any_envelope()) {
            let lines = written(&envelope);
            let is_line = |text: &str| !text.contains(char::is_control) && text.trim() == text;
            prop_assert!(lines.iter().all(|(name, value)| is_line(name) && is_line(value)));
            let back = read_lines(&lines, envelope.payload());
            prop_assert_eq!(sorted(&back), sorted(&envelope));
            prop_assert_eq!(back.payload(), envelope.payload());
        }

        #[test]
        fn no_envelope_exceeds_the_bound_of_header_bytes(envelope in any_envelope()) {
            let bound = header_bytes_at_most(&envelope, DEFAULTS);
            prop_assert!(header_bytes(&envelope, DEFAULTS) <= bound);
        }

        #[test]
        fn an_envelope_survives_the_outbox(envelope in any_envelope()) {
            let back = through_the_outbox(&envelope);
            prop_assert_eq!(sorted(&back), sorted(&envelope));
            prop_assert_eq!(back.payload(), envelope.payload());
        }

        #[test]
        fn every_envelope_that_was_read_can_be_stored(mut headers in any_headers()) {
            headers.push((TYPE.to_owned(), "user.created.v1".to_owned()));
            let envelope = read_lines(&headers, &Bytes::new());
            prop_assert_eq!(sorted(&through_the_outbox(&envelope)), sorted(&envelope));
        }
    }
}
