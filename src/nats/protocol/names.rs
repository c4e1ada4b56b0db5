//! The names of what Tidings creates in NATS: streams, the bucket, consumers, and the metadata by which its consumers
//! are recognised. Pure. Streams of events have the names that the operator declares.

use crate::replay::Replay;

/// The stream of dead letters.
pub(in crate::nats) const DEAD_LETTERS: &str = "DEAD_LETTERS";
/// The stream of retries.
pub(in crate::nats) const RETRIES: &str = "RETRIES";
/// The bucket that workers share, as clients of key-value stores name it.
pub(in crate::nats) const BUCKET: &str = "TIDINGS";
/// The stream of the bucket.
pub(crate) const BUCKET_STREAM: &str = "KV_TIDINGS";

/// The metadata of consumers: a server keeps it, and never reads it.
pub(in crate::nats) mod metadata {
    /// The subscriber that the consumer belongs to.
    pub(in crate::nats) const SUBSCRIBER: &str = "tidings.subscriber";
    /// The streams of the subscriber's events, separated by commas; on the consumer of its retries.
    pub(in crate::nats) const STREAMS: &str = "tidings.streams";
    /// The replay that the consumer belongs to: one with its name may be left over from another replay.
    pub(in crate::nats) const REPLAY: &str = "tidings.replay";
    /// What the consumer delivers: `live`, `retries` or `replay`.
    pub(in crate::nats) const KIND: &str = "tidings.kind";
    /// The reader that has created the consumer. It keeps the server from treating another reader's consumer as this
    /// one.
    pub(in crate::nats) const READER: &str = "tidings.reader";
}

/// What the consumers of a relay's readers are called, before the number of the reader.
#[cfg(feature = "outbox")]
pub(crate) fn relay_readers(schema: &str) -> String {
    format!("relay-{schema}")
}

/// The consumer of a reader with a name of its own, numbered from 1.
pub(crate) fn reader(name: &str, number: usize) -> String {
    format!("{name}-{number}")
}

/// Whether a consumer is that of a reader without a name of its own: its name is the hexadecimal form of a UUID.
pub(in crate::nats) fn is_unnamed_reader(consumer: &str) -> bool {
    consumer.len() == 32 && consumer.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl Replay {
    /// The name of its consumer in each of its streams: `replay-<subscriber>`, with the slot appended from the second
    /// slot on. It contains the subscriber and not the replay, so that permissions in NATS can name it.
    #[must_use]
    pub fn consumer(&self) -> String {
        match self.slot {
            0 | 1 => format!("replay-{}", self.subscriber),
            slot => format!("replay-{}-{slot}", self.subscriber),
        }
    }

    /// The name of the short-lived consumer that counts what is left of a range.
    pub(crate) fn counter(&self) -> String {
        format!("{}-count", self.consumer())
    }
}
