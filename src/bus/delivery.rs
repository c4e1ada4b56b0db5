//! One message from a consumer and the answers that can be given to it. Never decides which.
//!
//! Every answer is confirmed: it is a request, because a plain publish that dies in a socket's buffer
//! is a message handled twice.

use std::time::Duration;

use async_nats::{HeaderMap, HeaderName, HeaderValue, Message, Request, jetstream};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use tidings_contract::wire;

use super::{ApiError, Bus, BusError, Pulled, Receipt, envelope_of};
use crate::{
    executor::{Acknowledger, Arrival, Unanswered},
    outcome::DeadLetter,
};

/// How much of an error's text a dead letter carries, in bytes.
const MAX_ERROR_BYTES: usize = 2_048;

/// How long the client may take to queue a message.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest delay that is asked of the server, which counts nanoseconds in 63 bits.
const LONGEST_DELAY: Duration = Duration::from_secs(365 * 86_400);

/// A message as the consumer delivered it.
pub(crate) struct Delivery {
    bus: Bus,
    subscriber: String,
    message: Message,
    stream: String,
    sequence: u64,
    identity: String,
}

/// Where a message stands, from its reply subject.
pub(super) struct Place {
    pub(super) stream: String,
    pub(super) sequence: u64,
    pub(super) consumer_sequence: u64,
    pub(super) delivered: u32,
    pub(super) stored_at: DateTime<Utc>,
    pub(super) pending: u64,
}

impl Place {
    /// `None` when the message does not come from a consumer.
    pub(super) fn of(bus: &Bus, message: Message) -> (Message, Option<Self>) {
        let message = jetstream::Message {
            message,
            context: bus.jetstream.clone(),
        };
        let place = message.info().ok().map(|info| Self {
            stream: info.stream.to_owned(),
            sequence: info.stream_sequence,
            consumer_sequence: info.consumer_sequence,
            delivered: u32::try_from(info.delivered).unwrap_or(u32::MAX),
            stored_at: i64::try_from(info.published.unix_timestamp_nanos())
                .map(DateTime::from_timestamp_nanos)
                .unwrap_or_default(),
            pending: info.pending,
        });
        (message.message, place)
    }
}

impl Place {
    /// What no other message ever has: a sequence comes again when a stream is created anew.
    pub(super) fn identity(&self) -> String {
        let stored_at = self.stored_at.timestamp_nanos_opt().unwrap_or_default();
        format!("{}/{}/{stored_at}", self.stream, self.sequence)
    }
}

impl Delivery {
    /// Reads a message of a subscriber; `None` when it does not come from a consumer.
    pub(crate) fn read(bus: &Bus, subscriber: &str, message: Pulled) -> Option<(Self, Arrival)> {
        let (message, place) = Place::of(bus, message.0);
        let place = place?;
        let arrival = Arrival {
            envelope: envelope_of(&message, || place.identity()),
            subject: message.subject.to_string(),
            stream: place.stream.clone(),
            sequence: place.sequence,
            delivered: place.delivered,
        };
        let identity = place.identity();
        let delivery = Self {
            identity,
            bus: bus.clone(),
            subscriber: subscriber.to_owned(),
            message,
            stream: place.stream,
            sequence: place.sequence,
        };
        Some((delivery, arrival))
    }

    async fn answer(&self, payload: impl Into<Bytes> + Send) -> Result<(), BusError> {
        let Some(reply) = &self.message.reply else {
            return Ok(());
        };
        let request = Request::new().payload(payload.into());
        self.bus.request(reply.as_str(), request).await.map(drop)
    }

    async fn bury(&self, letter: &DeadLetter) -> Result<(), BusError> {
        let subject = format!("dead-letter.{}.{}", self.subscriber, self.message.subject);
        let (headers, payload) = self.fitting(letter);
        let request = Request::new().headers(headers).payload(payload);
        let answer = self.bus.request(&subject, request).await?;
        match Receipt::read(&answer).into_result() {
            Ok(_) => Ok(()),
            Err(ApiError {
                err_code,
                description,
            }) => Err(BusError::Api {
                subject,
                code: err_code,
                description,
            }),
        }
    }

    /// The letter as the server takes it. What was wrong with an event may not be what keeps it from the dead
    /// letters, so one that is too large loses first the text of its error, then its own headers, then its
    /// payload, which the stream still has under the sequence that the letter names.
    fn fitting(&self, letter: &DeadLetter) -> (HeaderMap, Bytes) {
        let limit = self.bus.max_payload();
        let fits = |headers: &HeaderMap, payload: &Bytes| {
            let bytes = size_of(headers);
            bytes <= wire::MAX_HEADER_BYTES && bytes + payload.len() <= limit
        };
        let payload = &self.message.payload;
        let mut headers = self.letter_headers(letter);
        if fits(&headers, payload) {
            return (headers, payload.clone());
        }
        headers.insert("tidings-dead-error", "");
        headers.insert("tidings-dead-truncated", "error");
        if fits(&headers, payload) {
            return (headers, payload.clone());
        }
        let own = |(name, values): (&HeaderName, &Vec<HeaderValue>)| {
            let known: &str = name.as_ref();
            let is_ours = known.starts_with("tidings-dead-") || known == wire::MESSAGE_ID;
            let value = values.first().filter(|_| is_ours)?;
            Some((name.clone(), value.clone()))
        };
        let mut headers: HeaderMap = headers.iter().filter_map(own).collect();
        headers.insert("tidings-dead-truncated", "error, headers");
        if fits(&headers, payload) {
            return (headers, payload.clone());
        }
        headers.insert("tidings-dead-truncated", "error, headers, payload");
        (headers, Bytes::new())
    }

    /// The original's headers, less those that tell NATS to do something, plus what went wrong.
    fn letter_headers(&self, letter: &DeadLetter) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, values) in self.message.headers.iter().flat_map(HeaderMap::iter) {
            let known: &str = name.as_ref();
            if known.to_ascii_lowercase().starts_with("nats-") {
                continue;
            }
            for value in values {
                headers.append(name.clone(), value.clone());
            }
        }
        let original_id = self
            .message
            .headers
            .as_ref()
            .and_then(|headers| headers.get(wire::MESSAGE_ID));
        if let Some(id) = original_id {
            headers.insert("tidings-dead-message-id", id.clone());
        }
        let id = format!("dead/{}/{}", self.subscriber, self.identity);
        headers.insert(wire::MESSAGE_ID, id);
        headers.insert("tidings-dead-subscriber", &*self.subscriber);
        headers.insert("tidings-dead-stream", &*self.stream);
        headers.insert("tidings-dead-sequence", self.sequence.to_string());
        headers.insert("tidings-dead-subject", self.message.subject.as_str());
        headers.insert("tidings-dead-cause", letter.cause.as_str());
        headers.insert("tidings-dead-error", one_line(&letter.error));
        headers.insert("tidings-dead-attempts", letter.attempts.to_string());
        let now = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
        headers.insert("tidings-dead-at", now);
        headers
    }
}

impl Acknowledger for Delivery {
    async fn ack(&self) -> Result<(), Unanswered> {
        Ok(self.answer("+ACK").await?)
    }

    async fn retry(&self, after: Duration) -> Result<(), Unanswered> {
        let nanos = after.min(LONGEST_DELAY).as_nanos();
        Ok(self.answer(format!("-NAK {{\"delay\":{nanos}}}")).await?)
    }

    async fn progress(&self) -> Result<(), Unanswered> {
        let Some(reply) = &self.message.reply else {
            return Ok(());
        };
        let payload = Bytes::from_static(b"+WPI");
        let telling = self.bus.client.publish(reply.clone(), payload);
        // While the connection is down the client's queue may be full, and the handler must not wait for it.
        Ok(tokio::time::timeout(PATIENCE, telling).await??)
    }

    async fn dead_letter(&self, letter: &DeadLetter) -> Result<(), Unanswered> {
        self.bury(letter).await?;
        let reason = format!("+TERM {}", letter.cause.as_str());
        Ok(self.answer(reason).await?)
    }
}

/// The bytes of headers on the wire.
fn size_of(headers: &HeaderMap) -> usize {
    let line = |name: &str, value: &str| name.len() + value.len() + ": \r\n".len();
    let lines = headers.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        values.iter().map(move |value| line(name, value.as_str()))
    });
    "NATS/1.0\r\n\r\n".len() + lines.sum::<usize>()
}

/// A text as a header can carry it: one line, of a bounded length.
fn one_line(text: &str) -> String {
    let mut line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let mut end = line.len().min(MAX_ERROR_BYTES);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.truncate(end);
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_error_becomes_one_bounded_line(text in any::<String>()) {
            let line = one_line(&text);
            prop_assert!(line.len() <= MAX_ERROR_BYTES && !line.contains(char::is_control));
        }
    }

    #[test]
    fn a_long_error_is_cut_between_characters() {
        assert!(one_line(&"\u{e9}".repeat(3_000)).len() <= MAX_ERROR_BYTES);
    }
}
