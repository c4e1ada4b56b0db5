//! Messages that are read back from streams: retries, copies of messages, headers byte for byte, positions.

use std::sync::Arc;

use async_nats::{ConnectOptions, jetstream};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;

use super::TextMessage;
use tidings_fuzz::{fuzz, fuzz_json, fuzz_text};

use crate::nats::{
    StoredMessage, Waiting,
    protocol::{
        authorship,
        dead_letter::size_of,
        names::RETRIES,
        position::Positions,
        replay_tag, retry,
        server_headers::{StoredAt, left_out, of_server},
        unreadable::Single,
    },
    stream::messages::{Told, header_map},
};

const RETRY: &str = "tidings.retry.mailer.user.created
tidings-retry-failures: 3
tidings-retry-deferrals: 16
tidings-retry-first-failed-at: 2026-11-21T09:30:00.000001Z
tidings-retry-stream: EVENTS
tidings-retry-sequence: 17
tidings-retry-identity: EVENTS/17/1700000000000000000
tidings-retry-message-id: order-7
tidings-retry-park: 0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11
tidings-redrive: 5
tidings-redrives: 4294967295
tidings-replay: 0190e6e47a3e7c3e9d3e3b1f0d8a6a11
tidings-replay-shadow: beta
tidings-replay-follow-ups: true
Nats-Msg-Id: x
ce-type: user.created.v1
x-own: 1

{\"id\":7}";

const WAITING: &str = "tidings.retry-at.mailer.0190e6e47a3e7c3e9d3e3b1f0d8a6a11
Nats-Schedule: @at 2026-11-21T09:30:00.000001Z
Nats-Schedule-Target: tidings.retry.mailer.user.created
tidings-retry-failures: 1
tidings-retry-identity: EVENTS/17/1700000000000000000
tidings-retry-message-id: order-7
ce-type: user.created.v1

{}";

const QUESTION: &str = "tidings.retry.mailer.UNPARK
x: y

{\"key\":\"k\",\"park\":\"0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a11\",\
\"redrive\":\"0190e6e4-7a3e-7c3e-9d3e-3b1f0d8a6a12\",\"after\":18446744073709551615}";

/// A message is restored to its original form, without any header of Tidings, unless it was redriven.
#[test]
fn fuzz_retries() {
    let forged = RETRY.replace("tidings.retry.mailer.", "");
    fuzz_text("retry", &[RETRY, WAITING, QUESTION, &forged], |text| {
        let mut message = TextMessage::of(text).message();
        let restored = retry::restore(&mut message, RETRIES, "mailer");
        let headers = message.headers.iter().flat_map(|headers| headers.iter());
        let mut reserved = headers.filter(|(name, _)| authorship::is_reserved(name.as_ref()));
        assert!(reserved.all(|(name, _)| {
            let name: &str = name.as_ref();
            restored.is_retry && name.starts_with("tidings-redrive")
        }));
        assert!(restored.past.deferrals <= 16);
        let question = super::super::Question::of(&message);
        if let Some(mark) = &restored.replay {
            let mut headers = super::HeaderMap::new();
            replay_tag::write(&mut headers, mark);
            assert_eq!(replay_tag::read(&headers).as_ref(), Some(mark));
        }
        restored.is_retry && (restored.origin.is_some() || question.is_some())
    });
}

#[test]
fn fuzz_retries_that_wait() {
    fuzz_text("retry that waits", &[WAITING, RETRY], |text| {
        let kept = TextMessage::of(text).kept();
        let due = retry::due_at(&kept);
        let waiting = Waiting::of(&kept);
        if let Some(waiting) = &waiting {
            assert!(waiting.due.is_none() || waiting.due == due);
        }
        waiting.is_some()
    });
}

#[test]
fn fuzz_requests_of_redrives() {
    let (_, seed) = QUESTION.split_once("\n\n").unwrap();
    fuzz_json("question", &[seed], |payload| {
        let mut message = TextMessage::of("UNPARK").message();
        message.payload = Bytes::copy_from_slice(payload);
        super::super::Question::of(&message).is_some()
    });
}

const DIRECT: &str = "_INBOX.x
ce-type: user.created.v1
Nats-Sequence: 3
Nats-Msg-Size: 17
Nats-Marker-Reason: MaxAge
Nats-Stream: EVENTS
Nats-Subject: user.created
Nats-Sequence: 17
Nats-Time-Stamp: 2026-11-21T09:30:00.123456789Z
Nats-Num-Pending: 18446744073709551615

";

/// The server's headers come after those of a publisher.
#[test]
fn fuzz_copies_of_messages() {
    let seeds = [DIRECT, RETRY, "_INBOX.x\nNats-Sequence: 17\n\n{}"];
    fuzz_text("copy of a message", &seeds, |text| {
        let message = TextMessage::of(text).message();
        let at = StoredAt::of(&message).map(|at| (at.sequence, at.subject.to_owned()));
        let size = left_out(&message);
        assert!(size.is_none_or(|size| size > 0 && message.payload.is_empty()));
        authorship::is_marker(message.headers.as_ref(), &message.payload);
        if let Some(headers) = &message.headers {
            size_of(headers);
            of_server(headers, "Nats-Num-Pending");
        }
        let kept = StoredMessage::of_direct(message);
        assert_eq!(
            at,
            kept.as_ref()
                .map(|kept| (kept.sequence, kept.subject.clone()))
        );
        if let Some(kept) = &kept {
            kept.is_marker();
            header_map(&kept.headers);
        }
        kept.is_some()
    });
}

/// A message that the API returns in JSON: its headers are bytes.
#[test]
fn fuzz_messages_in_json() {
    let seeds = [
        r#"{"subject":"user.created","seq":17,"time":"2026-11-21T09:30:00.123456789Z",
            "hdrs":"TkFUUy8xLjANCmE6IDENCg0K","data":"e30="}"#,
        r#"{"subject":"$KV.TIDINGS.lease.mailer","seq":18446744073709551615,"time":"2026-11-21T09:30:00Z"}"#,
    ];
    fuzz_json("message in JSON", &seeds, |answer| {
        let told: Option<Told> = serde_json::from_slice(answer).ok();
        let Some(raw) = told.and_then(Told::raw) else {
            return false;
        };
        let kept = StoredMessage::of_raw(raw);
        let names = kept.headers.iter().map(|(name, _)| name);
        assert!(names.is_sorted());
        true
    });
}

/// The readable parts of a message that a client cannot read: no fault is reported where the client has none.
#[test]
fn fuzz_headers_byte_for_byte() {
    let seeds: [&[u8]; 6] = [
        b"NATS/1.0\r\na: 1\r\na: \xc3\xa4\r\nCe-Type: user.created.v1\r\n\r\n",
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0 404 No Messages\r\na:1\r\n b\r\n\r\n",
        b"NATS/1.0\r\nb: 1\r\nno colon\r\na: \xff\r\n: x\r\n\r\n",
        b"NATS/1.0\n\r\n\tx\r\n",
        // A carriage return within a value ended the client's task.
        b"NATS/1.0\r\na: b\rc\r\nd: e\r\r\n\r\n",
    ];
    fuzz("headers byte for byte", &seeds, |headers| {
        let told: Told = serde_json::from_value(serde_json::json!({
            "subject": "user.created", "seq": 7, "time": "2026-11-21T09:30:00Z",
            "hdrs": STANDARD.encode(headers),
        }))
        .unwrap();
        let single = Single::new(told.raw().unwrap());
        let read = single
            .message
            .headers
            .iter()
            .flat_map(|headers| headers.iter());
        for value in read.flat_map(|(_, values)| values) {
            assert!(value.as_str().trim() == value.as_str());
        }
        single.fault.is_none()
    });
}

/// The ack subject of a delivery states the stream position of its message.
#[test]
fn fuzz_reply_subjects() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _entered = runtime.enter();
    let client = runtime.block_on(async {
        // It never connects: no request is made.
        let options = ConnectOptions::new().retry_on_initial_connect();
        options.connect("nats://127.0.0.1:1").await.unwrap()
    });
    let mut positions = Positions::over(jetstream::new(client));
    let seeds = [
        "$JS.ACK.EVENTS.mailer.1.17.3.1700000000000000000.0",
        "$JS.ACK.hub.acc.EVENTS.mailer.1.17.3.1700000000000000000.42.x",
        "$JS.ACK._.acc.EVENTS.mailer.1.18446744073709551615.1.9223372036854775807.0.x.y",
        "_INBOX.x",
    ];
    fuzz_text("reply subject", &seeds, |text| {
        let mut message = TextMessage::of("user.created").message();
        message.reply = Some(text.into());
        let (message, position) = positions.read(message);
        assert_eq!(message.reply.as_deref(), Some(text));
        let Some(position) = position else {
            return false;
        };
        let stream: Arc<str> = position.stream.clone();
        assert!(position.identity().starts_with(&*stream));
        position.position().sequence == position.sequence
    });
}
