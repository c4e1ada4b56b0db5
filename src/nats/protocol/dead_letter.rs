//! A dead letter as NATS stores it: subject, headers and payload of an event that was dead-lettered, with the reason.
//! Never decides that, and never sends one.

use std::borrow::Cow;

use async_nats::{HeaderMap, HeaderName, HeaderValue, Message};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use tidings_contract::wire;

use super::{
    authorship::is_of_nats,
    headers::{dead, redrive, replay, retry},
    replay_tag, subjects,
};
use crate::{
    policy::{failure::told, fingerprint::fingerprint, outcome::DeadLetter},
    replay::tag::ReplayTag,
};

/// How far the clocks of an instance and a server may differ.
pub(in crate::nats) const CLOCKS_DIFFER: TimeDelta = TimeDelta::minutes(5);
/// What the message id of a dead letter begins with.
const ID_PREFIX: &str = "dead/";

/// An event to be dead-lettered.
pub(in crate::nats) struct DeadLetterMessage<'a> {
    pub(in crate::nats) subscriber: &'a str,
    /// The message as it was delivered.
    pub(in crate::nats) message: &'a Message,
    /// The subject under which the event was published.
    pub(in crate::nats) subject: &'a str,
    /// The message id that the publisher has set.
    pub(in crate::nats) message_id: Option<&'a str>,
    /// The stream position of the event.
    pub(in crate::nats) stream: &'a str,
    pub(in crate::nats) sequence: u64,
    /// An identity that no other message ever has.
    pub(in crate::nats) identity: Cow<'a, str>,
    /// The consumer sequence of the delivery.
    pub(in crate::nats) consumer_sequence: Option<u64>,
    pub(in crate::nats) why: &'a DeadLetter,
    /// The replay that the event belongs to.
    pub(in crate::nats) replay: Option<&'a ReplayTag>,
}

impl DeadLetterMessage<'_> {
    pub(in crate::nats) fn stored_under(&self) -> String {
        subjects::dead_letter(self.subscriber, self.subject)
    }

    /// The dead letter in a form that the server accepts. The fault of an event must not keep it out of the dead
    /// letters, so one that is too large loses first the text of its error, then its own headers, then its payload,
    /// which the stream still has under the sequence that the dead letter states.
    pub(in crate::nats) fn fitting(&self, limit: usize, now: DateTime<Utc>) -> (HeaderMap, Bytes) {
        let fits = |headers: &HeaderMap, payload: &Bytes| {
            let bytes = size_of(headers);
            bytes <= wire::MAX_HEADER_BYTES && bytes + payload.len() <= limit
        };
        let payload = &self.message.payload;
        let mut headers = self.headers(now);
        if fits(&headers, payload) {
            return (headers, payload.clone());
        }
        headers.insert(dead::ERROR, "");
        headers.insert(dead::TRUNCATED, "error");
        if fits(&headers, payload) {
            return (headers, payload.clone());
        }
        let own = |(name, values): (&HeaderName, &Vec<HeaderValue>)| {
            let known: &str = name.as_ref();
            let is_kept = [dead::PREFIX, redrive::SEQUENCE, replay::ID]
                .iter()
                .any(|of| known.starts_with(of))
                || known == wire::MESSAGE_ID;
            let value = values.first().filter(|_| is_kept)?;
            Some((name.clone(), value.clone()))
        };
        let mut headers: HeaderMap = headers.iter().filter_map(own).collect();
        headers.insert(dead::TRUNCATED, "error, headers");
        if fits(&headers, payload) {
            return (headers, payload.clone());
        }
        headers.insert(dead::TRUNCATED, "error, headers, payload");
        (headers, Bytes::new())
    }

    /// The original's headers, without those that instruct NATS, plus the description of the failure.
    fn headers(&self, now: DateTime<Utc>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, values) in self.message.headers.iter().flat_map(HeaderMap::iter) {
            let known: &str = name.as_ref();
            let known = known.to_ascii_lowercase();
            // A dead letter has headers of its own for the facts of a retry.
            let is_replaced = [retry::PREFIX, dead::PREFIX]
                .iter()
                .any(|of| known.starts_with(of));
            if is_replaced || is_of_nats(&known) {
                continue;
            }
            for value in values {
                headers.append(name.clone(), value.clone());
            }
        }
        if let Some(replay) = self.replay {
            replay_tag::write(&mut headers, replay);
        }
        let why = self.why;
        let cause = why.cause.as_str();
        let error = told(&why.error);
        headers.insert(wire::MESSAGE_ID, self.id());
        headers.insert(dead::SUBSCRIBER, self.subscriber);
        headers.insert(dead::STREAM, self.stream);
        headers.insert(dead::SEQUENCE, self.sequence.to_string());
        headers.insert(dead::IDENTITY, &*self.identity);
        headers.insert(dead::SUBJECT, self.subject);
        headers.insert(dead::CAUSE, cause);
        headers.insert(dead::FINGERPRINT, fingerprint(cause, &error));
        headers.insert(dead::ERROR, error);
        headers.insert(dead::ATTEMPTS, why.attempts.to_string());
        headers.insert(dead::AT, time(now));
        let known = [
            (dead::MESSAGE_ID, self.message_id.map(str::to_owned)),
            (dead::FIRST_FAILED_AT, why.first_failed_at.map(time)),
            (dead::HANDLER, why.handler.map(str::to_owned)),
            (
                dead::CONSUMER_SEQUENCE,
                self.consumer_sequence.map(|sequence| sequence.to_string()),
            ),
        ];
        for (name, value) in known {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        headers
    }

    /// The same id when the dead letter is written again because its confirmation was lost; another one when the event
    /// was redriven or replayed meanwhile, because the server would otherwise drop the second dead letter as a
    /// duplicate.
    pub(in crate::nats) fn id(&self) -> String {
        let headers = self.message.headers.as_ref();
        let redriven = headers.and_then(|headers| headers.get(redrive::SEQUENCE));
        let Self {
            subscriber,
            identity,
            ..
        } = self;
        let replay = self.replay.map(|tag| format!("/replay/{}", tag.id));
        let replay = replay.unwrap_or_default();
        match redriven {
            Some(from) => format!("{ID_PREFIX}{subscriber}/{identity}{replay}/{from}"),
            None => format!("{ID_PREFIX}{subscriber}/{identity}{replay}"),
        }
    }
}

/// The identity of the event in the message id of its dead letter, for a dead letter that does not state it.
pub(crate) fn identity_in(id: &str) -> Option<&str> {
    let (_, identity) = id.strip_prefix(ID_PREFIX)?.split_once('/')?;
    Some(identity)
}

/// A time in a header.
pub(in crate::nats) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// The size of headers on the wire, in bytes.
pub(in crate::nats) fn size_of(headers: &HeaderMap) -> usize {
    let line = |name: &str, value: &str| name.len() + value.len() + ": \r\n".len();
    let lines = headers.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        values.iter().map(move |value| line(name, value.as_str()))
    });
    "NATS/1.0\r\n\r\n".len() + lines.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::outcome::Cause;

    fn message(headers: &[(&'static str, &'static str)], payload: &str) -> Message {
        let header = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from(*value))
        };
        Message {
            subject: "tidings.retry.welcome.user.created".into(),
            reply: None,
            payload: payload.to_owned().into(),
            headers: Some(headers.iter().map(header).collect()),
            status: None,
            description: None,
            length: 0,
        }
    }

    fn headers_of(message: &Message, why: &DeadLetter) -> HeaderMap {
        let letter = DeadLetterMessage {
            subscriber: "welcome",
            message,
            subject: "user.created",
            message_id: Some("m1"),
            stream: "EVENTS",
            sequence: 7,
            identity: "EVENTS/7/1".into(),
            consumer_sequence: Some(9),
            why,
            replay: None,
        };
        letter.fitting(1 << 20, DateTime::UNIX_EPOCH).0
    }

    fn why() -> DeadLetter {
        DeadLetter {
            cause: Cause::Exhausted,
            error: "line 1\nline 2".to_owned(),
            attempts: 3,
            first_failed_at: Some(DateTime::UNIX_EPOCH),
            handler: Some("shop::send_welcome"),
        }
    }

    #[test]
    fn a_dead_letter_has_the_headers_of_its_event_and_the_error() {
        let given = [
            ("ce-id", "1"),
            ("x-tenant", "acme"),
            ("Nats-Schedule-Next", "purge"),
            ("tidings-retry-failures", "2"),
        ];
        let headers = headers_of(&message(&given, "{}"), &why());
        let mut lines: Vec<String> = headers
            .iter()
            .map(|(name, values)| format!("{name}: {}", values[0]))
            .collect();
        lines.sort();
        assert_eq!(
            lines,
            [
                "Nats-Msg-Id: dead/welcome/EVENTS/7/1",
                "ce-id: 1",
                "tidings-dead-at: 1970-01-01T00:00:00.000000Z",
                "tidings-dead-attempts: 3",
                "tidings-dead-cause: exhausted",
                "tidings-dead-consumer-sequence: 9",
                "tidings-dead-error: line 1 line 2",
                "tidings-dead-fingerprint: 07d2ff65ab7a",
                "tidings-dead-first-failed-at: 1970-01-01T00:00:00.000000Z",
                "tidings-dead-handler: shop::send_welcome",
                "tidings-dead-identity: EVENTS/7/1",
                "tidings-dead-message-id: m1",
                "tidings-dead-sequence: 7",
                "tidings-dead-stream: EVENTS",
                "tidings-dead-subject: user.created",
                "tidings-dead-subscriber: welcome",
                "x-tenant: acme",
            ]
        );
    }

    #[test]
    fn a_redriven_event_gets_another_dead_letter() {
        let first = headers_of(&message(&[], "{}"), &why());
        let redriven = message(
            &[("tidings-redrive", "12"), ("tidings-redrives", "1")],
            "{}",
        );
        let second = headers_of(&redriven, &why());
        assert_ne!(
            first.get(wire::MESSAGE_ID).unwrap(),
            second.get(wire::MESSAGE_ID).unwrap()
        );
        assert_eq!(second.get("tidings-redrives").unwrap().as_str(), "1");
    }
}
