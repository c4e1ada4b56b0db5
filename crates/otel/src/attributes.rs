//! The attributes of spans, by the semantic conventions for messaging, version 1.44. Never a payload, a header of the
//! application or the text of an error.

use opentelemetry::KeyValue;
use tidings::Envelope;

pub(crate) const ERROR_TYPE: &str = "error.type";
pub(crate) const MESSAGE_COUNT: &str = "messaging.batch.message_count";
pub(crate) const GROUP: &str = "messaging.consumer.group.name";
pub(crate) const MESSAGE_ID: &str = "messaging.message.id";
pub(crate) const STREAM: &str = "tidings.stream";
pub(crate) const SEQUENCE: &str = "tidings.sequence";
pub(crate) const ATTEMPT: &str = "tidings.attempt";
pub(crate) const REPLAY: &str = "tidings.replay";
pub(crate) const REDRIVES: &str = "tidings.redrives";
pub(crate) const OUTCOME: &str = "tidings.outcome";
pub(crate) const FAILED: &str = "tidings.failed";
pub(crate) const WAIT: &str = "tidings.outbox.wait_ms";
pub(crate) const FOUND: &str = "tidings.found";
const SYSTEM: &str = "messaging.system";
const OPERATION_NAME: &str = "messaging.operation.name";
const OPERATION_TYPE: &str = "messaging.operation.type";
const DESTINATION: &str = "messaging.destination.name";
const CONVERSATION: &str = "messaging.message.conversation_id";
const BODY_SIZE: &str = "messaging.message.body.size";
const VERSION: &str = "tidings.version";
const KEY: &str = "tidings.key";

/// The name of a span, such as `send user.created`.
pub(crate) fn name(operation: &'static str, event: &Envelope) -> String {
    format!("{operation} {}", event.name())
}

/// What each span has. Name and type of an operation are one word here: create, send, process.
pub(crate) fn operation(operation: &'static str, event: &Envelope) -> Vec<KeyValue> {
    vec![
        KeyValue::new(SYSTEM, "nats"),
        KeyValue::new(OPERATION_NAME, operation),
        KeyValue::new(OPERATION_TYPE, operation),
        KeyValue::new(DESTINATION, event.name().as_str().to_owned()),
    ]
}

/// What a span about one event has in addition.
pub(crate) fn event(event: &Envelope, with_key: bool) -> impl Iterator<Item = KeyValue> {
    let key = event.key().filter(|_| with_key);
    [
        KeyValue::new(MESSAGE_ID, event.id().to_string()),
        KeyValue::new(CONVERSATION, event.correlation_id()),
        KeyValue::new(BODY_SIZE, count(event.payload().len())),
        KeyValue::new(VERSION, i64::from(event.version())),
    ]
    .into_iter()
    .chain(key.map(|key| KeyValue::new(KEY, key.to_owned())))
}

/// The position of an event.
pub(crate) fn position(stream: &str, sequence: u64) -> [KeyValue; 2] {
    [
        KeyValue::new(STREAM, stream.to_owned()),
        KeyValue::new(SEQUENCE, number(sequence)),
    ]
}

pub(crate) fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
