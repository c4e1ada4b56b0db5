//! The attributes of spans, by the semantic conventions for messaging, version 1.44. Never a payload, a header of the
//! application or the text of an error.

use opentelemetry::KeyValue;
use sha2::{Digest, Sha256};
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
pub(crate) const DESTINATION: &str = "messaging.destination.name";
const CONVERSATION: &str = "messaging.message.conversation_id";
const BODY_SIZE: &str = "messaging.message.body.size";
const VERSION: &str = "tidings.version";
const KEY: &str = "tidings.key";
const KEY_HASH: &str = "tidings.key.hash";

/// How much of a hash a span has, in bytes.
const HASH: usize = 8;

/// What spans have of the key of an event.
pub(crate) enum Keys {
    Nothing,
    Plain,
    /// This hash, continued with the key.
    Hashed(Sha256),
}

impl Keys {
    pub(crate) fn hashed(secret: &[u8]) -> Self {
        // With its length, so that no secret is another one and the beginning of a key.
        let hash = Sha256::new().chain_update((secret.len() as u64).to_be_bytes());
        Self::Hashed(hash.chain_update(secret))
    }

    fn of(&self, event: &Envelope) -> Option<KeyValue> {
        match (self, event.key()?) {
            (Self::Nothing, _) => None,
            (Self::Plain, key) => Some(KeyValue::new(KEY, key.to_owned())),
            (Self::Hashed(hash), key) => {
                let hash = hash.clone().chain_update(key).finalize();
                let hash = hash.iter().take(HASH).map(|byte| format!("{byte:02x}"));
                Some(KeyValue::new(KEY_HASH, hash.collect::<String>()))
            }
        }
    }
}

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
pub(crate) fn event(event: &Envelope, keys: &Keys) -> impl Iterator<Item = KeyValue> + use<> {
    let key = keys.of(event);
    [
        KeyValue::new(MESSAGE_ID, event.id().to_string()),
        KeyValue::new(CONVERSATION, event.correlation_id()),
        KeyValue::new(BODY_SIZE, count(event.payload().len())),
        KeyValue::new(VERSION, i64::from(event.version())),
    ]
    .into_iter()
    .chain(key)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn key(keys: &Keys, key: Option<&str>) -> Option<(String, String)> {
        let event = Envelope::raw("user.created", 1, key, "{}").unwrap();
        let key = keys.of(&event)?;
        Some((key.key.to_string(), key.value.to_string()))
    }

    #[test]
    fn a_hashed_key_shows_which_keys_are_equal() {
        let keys = Keys::hashed(b"a secret");
        let (name, ada) = key(&keys, Some("ada")).unwrap();
        assert_eq!((&*name, ada.len()), ("tidings.key.hash", 16));
        assert!(!ada.contains("ada"));
        assert_eq!(key(&keys, Some("ada")).unwrap().1, ada, "in each process");
        assert_ne!(key(&keys, Some("bob")).unwrap().1, ada);
        let other = Keys::hashed(b"another secret");
        assert_ne!(key(&other, Some("ada")).unwrap().1, ada);
        assert_eq!(key(&keys, None), None);
    }

    #[test]
    fn a_key_is_shown_on_demand_only() {
        assert_eq!(key(&Keys::Nothing, Some("ada")), None);
        let shown = ("tidings.key".to_owned(), "ada".to_owned());
        assert_eq!(key(&Keys::Plain, Some("ada")), Some(shown));
    }
}
