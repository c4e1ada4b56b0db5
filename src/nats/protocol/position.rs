//! The stream position of a message, from its reply subject. Never decides what that means.

use std::sync::Arc;

use async_nats::{
    Message,
    jetstream::{self, Context},
};
use chrono::{DateTime, Utc};

use crate::nats::Bus;
use crate::position::Position;

/// The stream position of a message, and the facts of its delivery.
pub(in crate::nats) struct Place {
    pub(in crate::nats) stream: Arc<str>,
    pub(in crate::nats) sequence: u64,
    pub(in crate::nats) consumer_sequence: u64,
    pub(in crate::nats) delivered: u32,
    pub(in crate::nats) stored_at: DateTime<Utc>,
    pub(in crate::nats) pending: u64,
}

impl Place {
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

/// Reads positions, and caches what is expensive to create for each of them.
pub(in crate::nats) struct Places {
    jetstream: Context,
    /// Stored here between two messages.
    context: Option<Context>,
    /// The stream of the last message.
    stream: Arc<str>,
}

impl Places {
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
    pub(in crate::nats) fn read(&mut self, message: Message) -> (Message, Option<Place>) {
        let context = self.context.take();
        let context = context.unwrap_or_else(|| self.jetstream.clone());
        let message = jetstream::Message { message, context };
        let place = message.info().ok().map(|info| {
            if *self.stream != *info.stream {
                self.stream = info.stream.into();
            }
            Place {
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
        (message.message, place)
    }
}
