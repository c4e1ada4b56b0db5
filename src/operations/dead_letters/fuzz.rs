//! Fuzzes the reader of dead letters with arbitrary messages in their stream. Only for tests.

use chrono::DateTime;

use super::{Edit, StoredDeadLetter, group::Groups, redrive::redrive};
use tidings_fuzz::fuzz_text;

use crate::nats::fuzz::TextMessage;

const LETTER: &str = "dead-letter.mailer.user.created
Nats-Msg-Id: dead/mailer/EVENTS/17/1700000000000000000
ce-id: 7
ce-type: user.created.v1
ce-partitionkey: Zo%C3%AB
content-type: application/json
tidings-dead-subscriber: mailer
tidings-dead-stream: EVENTS
tidings-dead-sequence: 18446744073709551615
tidings-dead-identity: EVENTS/17/1700000000000000000
tidings-dead-subject: user.created
tidings-dead-cause: exhausted
tidings-dead-fingerprint: 57147553f8d9
tidings-dead-error: timeout after 30s
tidings-dead-attempts: 4294967295
tidings-dead-at: 2026-11-21T09:30:00.000001Z
tidings-dead-first-failed-at: 2026-11-21T09:30:00Z
tidings-dead-handler: accounts::Welcome
tidings-dead-consumer-sequence: 3
tidings-dead-message-id: order-7
tidings-dead-truncated: error, headers, payload
tidings-redrive: 5
tidings-redrives: 4294967295
tidings-replay: 0190e6e47a3e7c3e9d3e3b1f0d8a6a11
tidings-redrive-edited: true

{\"id\":7}";

const FOREIGN: [&str; 4] = [
    "dead-letter.mailer.user.created\nNats-Msg-Id: dead/mailer/EVENTS/1/2\ntidings-dead-cause: panicked\n\
     tidings-dead-error: 'a 'a 'a 'a \n\nno json \u{ff}",
    "dead-letter.mailer\nx: y\n\n",
    "dead-letter.mailer.user.created\ncontent-type: application/cloudevents+json\ncontent-encoding: \
     gzip\n\n{\"type\":\"user.created.v1\",\"data\":{}}",
    "dead-letter.mailer.user.created\ncontent-type: application/cloudevents-batch+json\n\n[]",
];

/// Any dead letter can be written as JSON, counted, and redriven as a retry of its event.
#[test]
fn fuzz_dead_letters() {
    let edit = Edit {
        payload: "{}".into(),
        by: "ada\n".to_owned(),
        at: DateTime::UNIX_EPOCH,
    };
    let mut seeds = vec![LETTER];
    seeds.extend(FOREIGN);
    fuzz_text("dead letter", &seeds, |text| {
        let kept = TextMessage::of(text).kept();
        let letter = StoredDeadLetter::of(kept.clone());
        let line = serde_json::to_string(&letter).unwrap();
        let told: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(told["subject"], letter.subject);
        let mut groups = Groups::default();
        groups.add(&letter);
        groups.add(&letter);
        assert_eq!(groups.largest_first()[0].count, 2);
        for (original, edit) in [
            (None, None),
            (Some(&kept), Some(&edit)),
            (None, Some(&edit)),
        ] {
            let again = redrive(&letter, original, edit, "2026-11-21T09:30:00Z");
            let count = again
                .headers
                .iter()
                .filter(|(name, _)| name == "tidings-redrives");
            assert_eq!(count.count(), 1);
            let forged = |(name, _): &&(String, String)| name.starts_with("tidings-dead-");
            assert_eq!(again.headers.iter().find(forged), None);
            let _ = again.read(&letter.event_subject);
        }
        letter.event.is_some()
    });
}
