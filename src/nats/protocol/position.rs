//! The stream position of a delivered message, from its reply subject, which is also where it is acknowledged. Never
//! decides what that means.

use std::sync::Arc;

use async_nats::{
    Message,
    jetstream::{self, Context},
};
use chrono::{DateTime, Utc};

use crate::{nats::Bus, position::Position};

/// The stream position of a message, and the facts of its delivery.
pub(in crate::nats) struct DeliveryPosition {
    pub(in crate::nats) stream: Arc<str>,
    pub(in crate::nats) sequence: u64,
    pub(in crate::nats) consumer_sequence: u64,
    pub(in crate::nats) delivered: u32,
    pub(in crate::nats) stored_at: DateTime<Utc>,
    pub(in crate::nats) pending: u64,
}

impl DeliveryPosition {
    /// Sequence and time, which identify the message in its stream.
    pub(in crate::nats) fn position(&self) -> Position {
        Position {
            sequence: self.sequence,
            stored_at: self.stored_at,
        }
    }

    /// An identity that no other message ever has: the sequence alone is reused when a stream is recreated.
    pub(in crate::nats) fn identity(&self) -> String {
        identity(&self.stream, self.sequence, self.stored_at)
    }
}

/// An identity that no message has that is stored elsewhere, or at another time.
pub(in crate::nats) fn identity(stream: &str, sequence: u64, stored_at: DateTime<Utc>) -> String {
    let stored_at = stored_at.timestamp_nanos_opt().unwrap_or_default();
    format!("{stream}/{sequence}/{stored_at}")
}

/// When an event was first stored, by its identity: a retry of it is another message. `None` if the identity has
/// another form.
pub(in crate::nats) fn stored_at(identity: &str) -> Option<DateTime<Utc>> {
    let (before, nanos) = identity.rsplit_once('/')?;
    let (_, sequence) = before.rsplit_once('/')?;
    let (_, nanos): (u64, u64) = (sequence.parse().ok()?, nanos.parse().ok()?);
    let nanos = i64::try_from(nanos).ok()?;
    Some(DateTime::from_timestamp_nanos(nanos))
}

/// A delivery, by the subject on which it is acknowledged.
pub(in crate::nats) struct AckSubject {
    /// All tokens before the numbers.
    pub(in crate::nats) prefix: String,
    pub(in crate::nats) sequence: u64,
    pub(in crate::nats) consumer_sequence: u64,
}

impl AckSubject {
    pub(in crate::nats) fn read(reply: &str) -> Option<Self> {
        let tokens: Vec<&str> = reply.split('.').collect();
        // With a domain and an account there are two more tokens before the stream.
        let before = if tokens.len() > 9 { 6 } else { 4 };
        let number = |at: usize| tokens.get(at)?.parse().ok();
        Some(Self {
            prefix: tokens.get(..before)?.join("."),
            sequence: number(before + 1)?,
            consumer_sequence: number(before + 2)?,
        })
    }
}

/// Reads positions, and caches what is expensive to create for each of them.
pub(in crate::nats) struct Positions {
    jetstream: Context,
    /// Stored here between two messages.
    context: Option<Context>,
    /// The stream of the last message.
    stream: Arc<str>,
}

impl Positions {
    pub(in crate::nats) fn new(bus: &Bus) -> Self {
        Self::over(bus.jetstream.clone())
    }

    pub(in crate::nats) fn over(jetstream: Context) -> Self {
        Self {
            jetstream,
            context: None,
            stream: "".into(),
        }
    }

    /// `None` when the message does not come from a consumer.
    pub(in crate::nats) fn read(
        &mut self,
        message: Message,
    ) -> (Message, Option<DeliveryPosition>) {
        let context = self.context.take();
        let context = context.unwrap_or_else(|| self.jetstream.clone());
        let message = jetstream::Message { message, context };
        let position = message.info().ok().map(|info| {
            if *self.stream != *info.stream {
                self.stream = info.stream.into();
            }
            DeliveryPosition {
                stream: Arc::clone(&self.stream),
                sequence: info.stream_sequence,
                consumer_sequence: info.consumer_sequence,
                delivered: u32::try_from(info.delivered).unwrap_or(u32::MAX),
                stored_at: i64::try_from(info.published.unix_timestamp_nanos())
                    .map(DateTime::from_timestamp_nanos)
                    .unwrap_or_default(),
                pending: info.pending,
            }
        });
        self.context = Some(message.context);
        (message.message, position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_as_it_was_written() {
        let at = DateTime::from_timestamp_nanos(1_700_000_000_000_000_001);
        let written = identity("EVENTS", 7, at);
        assert_eq!(written, "EVENTS/7/1700000000000000001");
        assert_eq!(stored_at(&written), Some(at));
        for other in ["", "EVENTS/7", "EVENTS/x/1", "EVENTS/7/-1"] {
            assert_eq!(stored_at(other), None, "{other}");
        }
    }

    #[test]
    fn a_delivery_is_identified_by_its_reply_subject() {
        for (reply, prefix) in [
            (
                "$JS.ACK.EVENTS.welcome.1.7.3.99.0",
                "$JS.ACK.EVENTS.welcome",
            ),
            (
                "$JS.ACK.hub.acc.EVENTS.welcome.1.7.3.99.0.x",
                "$JS.ACK.hub.acc.EVENTS.welcome",
            ),
        ] {
            let ack = AckSubject::read(reply).unwrap();
            assert_eq!(
                (&*ack.prefix, ack.sequence, ack.consumer_sequence),
                (prefix, 7, 3)
            );
        }
        assert!(AckSubject::read("_INBOX.x").is_none());
    }

    #[test]
    fn fuzz_subjects_of_acks() {
        let seeds = [
            "$JS.ACK.EVENTS.welcome.1.7.3.99.0",
            "$JS.ACK.hub.acc.EVENTS.welcome.1.18446744073709551615.3.99.0.x",
        ];
        tidings_fuzz::fuzz_text("ack", &seeds, |reply| {
            let ack = AckSubject::read(reply);
            assert!(
                ack.as_ref()
                    .is_none_or(|ack| reply.starts_with(&ack.prefix))
            );
            ack.is_some()
        });
    }
}
