//! Messages of events in every form, and rows: what was read is written and read again.

use bytes::Bytes;
use chrono::DateTime;
use tidings_contract::{Envelope, IntoEnvelope as _, wire};

use super::TextMessage;
use tidings_fuzz::{fuzz_json, fuzz_text};

use crate::nats::{envelope_of, is_in_payload};

const OURS: &str = "user.created
Nats-Msg-Id: 0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11
ce-specversion: 1.0
ce-id: 0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11
ce-type: user.created.v1
ce-source: accounts
ce-time: 2026-11-21T09:30:00.123456Z
ce-subject: Zo%C3%AB
ce-partitionkey: Zo%C3%AB
content-type: application/json
ce-datacontenttype: application/json
ce-correlationid: order-1
ce-causationid: 0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a12
traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
tracestate: vendor=a%20b
ce-tenant: acme
x-own: 1

{\"id\":7}";

const FOREIGN: [&str; 5] = [
    "user.created\nCE-ID: \"7\"\nce-source: \"/sh%C3%B6p\"\nCe-Type: user.created.v2147483648\nce-subject: \"Ada \\\"x\\\" \
     L%21\"\nce-partitionkey: \nce-dataschema: \"https://x/y\"\nce-traceparent: 00-a-b-01\n\n{}",
    "user.created\nNats-Msg-Id: order-7\nX-Own: \u{e9}\nx-own: 2\nNats-Rollup: all\ntidings-redrives: \
     4294967295\ncontent-type: text/xml\n\n<a/>",
    "user.created\ncontent-type: application/json; charset=\"utf-8\"\ncontent-encoding: identity\nce-time: \
     2026-11-21T09:30:00+02:00\n\n[]",
    "user.created\ncontent-type: application/cloudevents-batch+json\n\n[]",
    "no event\nce-type: user.created.v0\nce-id: 0190E6E47A3E7C3E9D3E3B1F0D8A6A11\nce-data: x\n\n",
];

const WRAPPER: &str = r#"{"specversion":"1.0","id":"7","source":"/shöp","type":"user.created.v2","subject":"Zoë",
    "partitionkey":"k","time":"2026-11-21T09:30:00Z","datacontenttype":"application/json","correlationid":"c",
    "traceparent":"00-a-b-01","tenant":"acme","sampled":true,"rate":3,"gone":null,"data":{"n":1.5,"a":[1,"b"]}}"#;

const DEFAULTS: wire::Defaults<'_> = wire::Defaults::new("accounts", DateTime::UNIX_EPOCH);

/// The headers with which an envelope is published.
fn written(envelope: &Envelope) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    wire::write_headers(envelope, DEFAULTS, |name, value| {
        lines.push((name.to_owned(), value.to_owned()));
    });
    lines
}

/// An envelope that was read is the same after it was published, and after it was in an outbox.
fn comes_back(envelope: &Envelope) {
    let lines = written(envelope);
    let is_line = |text: &str| !text.contains(char::is_control) && text.trim() == text;
    assert!(
        lines
            .iter()
            .all(|(name, value)| is_line(name) && is_line(value)),
        "{lines:?}"
    );
    assert!(
        wire::header_bytes(envelope, DEFAULTS) <= wire::header_bytes_at_most(envelope, DEFAULTS)
    );
    let headers = lines.iter().map(|(name, value)| (&**name, &**value));
    let payload = envelope.payload().clone();
    let again = wire::read("no.event", headers, payload.clone(), || "x".to_owned()).unwrap();
    let sorted = |lines: &[(String, String)]| {
        let mut lines = lines.to_vec();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&written(&again)), sorted(&lines));
    assert_eq!((again.id(), again.key()), (envelope.id(), envelope.key()));
    // Only publishable events enter an outbox.
    let Ok(envelope) = envelope.clone().into_envelope() else {
        return;
    };
    let stored = wire::stored_headers(&envelope);
    let (id, version) = (envelope.id(), envelope.version());
    let name = envelope.name().as_str();
    let row = wire::from_stored(id, name, version, envelope.key(), &stored, payload).unwrap();
    assert_eq!(sorted(&written(&row)), sorted(&lines));
}

fn is_read(letter: &TextMessage) -> bool {
    let place = || "EVENTS/7/1".to_owned();
    let payload = letter.payload.clone();
    match wire::read(&letter.subject, letter.lines(), payload, place) {
        Ok(envelope) => {
            comes_back(&envelope);
            true
        }
        Err(error) => error.to_string().is_empty(),
    }
}

#[test]
fn fuzz_messages_in_binary_mode() {
    let mut seeds = vec![OURS];
    seeds.extend(FOREIGN);
    fuzz_text("wire message", &seeds, |text| {
        is_read(&TextMessage::of(text))
    });
}

/// A message is read as the same event in whatever order the client returns its headers.
#[test]
fn fuzz_messages_of_the_client() {
    let mut seeds = vec![OURS];
    seeds.extend(FOREIGN);
    fuzz_text("message of the client", &seeds, |text| {
        // The client returns them in another order each time.
        let read = || {
            let message = TextMessage::of(text).message();
            let place = || "EVENTS/7/1".to_owned();
            (envelope_of(&message, place), is_in_payload(&message))
        };
        let (envelope, is_wrapped) = read();
        assert_eq!((envelope.clone(), is_wrapped), read());
        envelope.is_ok()
    });
}

#[test]
fn fuzz_messages_in_structured_mode() {
    let seeds = [
        WRAPPER,
        r#"{"type":"user.created.v1","id":"7","data":"a\nb"}"#,
        r#"{"type":"user.created.v1","datacontenttype":"text/xml","data":"<a\n/>"}"#,
        r#"{"type":"user.created.v1","data_base64":"eyJhIjoxfQ=="}"#,
        r#"{"type":"user.created.v1","data":1,"data_base64":"AA=="}"#,
    ];
    fuzz_json("structured message", &seeds, |payload| {
        is_read(&TextMessage {
            subject: "user.created".to_owned(),
            headers: vec![
                (
                    "content-type".to_owned(),
                    "application/cloudevents+json; charset=utf-8".to_owned(),
                ),
                ("x-own".to_owned(), "1".to_owned()),
                ("traceparent".to_owned(), "00-a-b-02".to_owned()),
            ],
            payload: Bytes::copy_from_slice(payload),
        })
    });
}

/// The values of single headers: percent-encoding, quotes, media types, types.
#[test]
fn fuzz_values_of_headers() {
    let seeds = [
        "Zo%C3%AB",
        "\"Ada \\\"x\\\" L%21\"",
        "user.created.v17",
        "application/cloudevents+json; charset=\"utf-8\"",
        "application/vnd.x+json;charset=utf8",
        "2026-11-21T09:30:00.5+02:00",
        "0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11",
        "%75ser%2541%",
    ];
    const NAMES: [&str; 12] = [
        "ce-type",
        "ce-id",
        "Nats-Msg-Id",
        "ce-subject",
        "ce-time",
        "ce-source",
        "ce-correlationid",
        "content-type",
        "ce-datacontenttype",
        "content-encoding",
        "ce-x",
        "x",
    ];
    let mut names = NAMES.into_iter().cycle();
    fuzz_text("value of a header", &seeds, |value| {
        let name = names.next().unwrap_or_default().to_owned();
        is_read(&TextMessage {
            subject: "user.created".to_owned(),
            headers: vec![(name, value.to_owned())],
            payload: Bytes::new(),
        })
    });
}

#[test]
fn fuzz_headers_of_rows() {
    let seeds = [
        "{}",
        r#"{"ce-source":"billing","ce-time":"2026-11-21T09:30:00Z","ce-correlationid":"c","ce-causationid":"d",
            "traceparent":"00-a-b-01","tracestate":"v=1","ce-tenant":"acme","x-own":"1","X-Other":"2"}"#,
        r#"{"Traceparent":"00-a-b-01","CE-Source":"billing","Tenant":"acme","TENANT":"b"}"#,
        // Reading many names once took quadratic time.
        r#"{"a":"","b":"","c":"","d":"","e":"","f":""}"#,
    ];
    let id = "0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11".parse().unwrap();
    fuzz_json("headers of a row", &seeds, |text| {
        let text = String::from_utf8_lossy(text);
        let row = wire::from_stored(id, "user.created", 1, Some("k"), &text, Bytes::new());
        match row {
            Ok(envelope) => {
                comes_back(&envelope);
                true
            }
            Err(error) => error.to_string().is_empty(),
        }
    });
}
