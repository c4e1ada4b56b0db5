//! The data that a message carries from its failure to its next attempt. Never decides when that is.

use std::borrow::Cow;

use async_nats::{HeaderMap, Message};
use chrono::{DateTime, Utc};
use tidings_contract::{Envelope, wire};
use uuid::Uuid;

use super::{
    authorship::{self, count, is_of_nats, is_reserved},
    dead_letter::time,
    headers::{redrive, retry, server},
    names, replay_tag, subjects,
};
use crate::{executor::Past, nats::StoredMessage, replay::tag::ReplayTag};

/// The backoff grows with at most this number of deferrals. It is not a count of deliveries to an instance without the
/// handler.
const MAX_DEFERRALS: u32 = 16;
/// A schedule for one time begins with this.
const AT: &str = "@at ";

/// The history of a message that was delivered before.
#[derive(Default)]
pub(in crate::nats) struct Restored {
    /// Whether it comes from the stream of retries.
    pub(in crate::nats) is_retry: bool,
    /// The stream and the sequence of the event.
    pub(in crate::nats) origin: Option<(String, u64)>,
    pub(in crate::nats) identity: Option<String>,
    pub(in crate::nats) past: Past,
    /// Whether it was a dead letter.
    pub(in crate::nats) is_redriven: bool,
    /// The park of its key that it may pass.
    pub(in crate::nats) pass: Option<Uuid>,
    /// The replay that it belongs to.
    pub(in crate::nats) replay: Option<ReplayTag>,
    /// The schedule that has published it, if that is not one of this subscriber: a client that may schedule anything
    /// in a stream may have the server publish to all subjects of it.
    pub(in crate::nats) foreign_schedule: Option<String>,
}

/// Restores a retry to its original form, and returns the data that it carried. A message from another stream is the
/// publisher's own event: all headers of Tidings are removed from it.
pub(in crate::nats) fn restore(message: &mut Message, stream: &str, subscriber: &str) -> Restored {
    let parts = (stream == names::RETRIES).then(|| subjects::parts_of_retry(&message.subject));
    let name = parts.flatten().filter(|(of, _)| *of == subscriber);
    let Some(name) = name.map(|(_, name)| name.to_owned()) else {
        let headers = message.headers.iter_mut();
        headers.for_each(authorship::strip_reserved);
        return Restored::default();
    };
    message.subject = name.into();
    let is_retry = true;
    let Some(headers) = &mut message.headers else {
        return Restored {
            is_retry,
            ..Restored::default()
        };
    };
    if let Some(other) = scheduled_by_another(headers, subscriber) {
        authorship::strip_reserved(headers);
        return Restored {
            is_retry,
            foreign_schedule: Some(other),
            ..Restored::default()
        };
    }
    let text = |name| headers.get(name).map(|value| value.as_str());
    let origin =
        text(retry::STREAM).zip(text(retry::SEQUENCE).and_then(|sequence| sequence.parse().ok()));
    let restored = Restored {
        is_retry,
        origin: origin.map(|(stream, sequence)| (stream.to_owned(), sequence)),
        identity: text(retry::IDENTITY).map(str::to_owned),
        past: Past {
            failures: text(retry::FAILURES).map_or(0, count),
            first_failed_at: text(retry::FIRST_FAILED_AT).and_then(|at| at.parse().ok()),
            redrives: text(redrive::COUNT).map_or(0, count),
            redriven_from: text(redrive::SEQUENCE)
                .and_then(|letter| letter.parse().ok())
                .unwrap_or(0),
            deferrals: text(retry::DEFERRALS).map_or(0, count).min(MAX_DEFERRALS),
        },
        is_redriven: text(redrive::SEQUENCE).is_some(),
        pass: text(retry::PARK).and_then(|park| park.parse().ok()),
        replay: replay_tag::read(headers),
        foreign_schedule: None,
    };
    let original = headers.get(retry::MESSAGE_ID).cloned();
    // The headers of a redrive stay: they are passed on.
    let is_carried = |name: &str| !is_reserved(name) || name.starts_with(redrive::SEQUENCE);
    let mut kept = authorship::only(headers, |name| is_carried(name) && !is_of_nats(name));
    if let Some(original) = original {
        kept.insert(wire::MESSAGE_ID, original);
    }
    *headers = kept;
    restored
}

/// The schedule that a message comes from, if it belongs to another subscriber.
fn scheduled_by_another(headers: &HeaderMap, subscriber: &str) -> Option<String> {
    let own = subjects::scheduled_retry(subscriber, "");
    let schedulers = headers
        .iter()
        .filter(|(name, _)| AsRef::<str>::as_ref(*name).eq_ignore_ascii_case(server::SCHEDULER));
    let mut schedulers = schedulers.flat_map(|(_, values)| values);
    let other = schedulers.find(|value| !value.as_str().starts_with(&own));
    other.map(|value| value.as_str().to_owned())
}

/// A delivered event, as far as its retries carry it.
pub(in crate::nats) struct Origin<'a> {
    pub(in crate::nats) subscriber: &'a str,
    /// In its original form.
    pub(in crate::nats) message: &'a Message,
    /// The position at which the event was first stored.
    pub(in crate::nats) stream: &'a str,
    pub(in crate::nats) sequence: u64,
    /// An identity that no other event ever has.
    pub(in crate::nats) identity: Cow<'a, str>,
    /// The replay that it belongs to.
    pub(in crate::nats) replay: Option<&'a ReplayTag>,
}

/// The original's headers with the data for the next attempt, due at a time.
pub(in crate::nats) fn headers(origin: &Origin<'_>, past: &Past, due: DateTime<Utc>) -> HeaderMap {
    let message = origin.message;
    let mut headers = HeaderMap::new();
    for (name, values) in message.headers.iter().flat_map(HeaderMap::iter) {
        if is_of_nats(name.as_ref()) {
            continue;
        }
        for value in values {
            headers.append(name.clone(), value.clone());
        }
    }
    if let Some(id) = message_id(message) {
        headers.insert(retry::MESSAGE_ID, id);
    }
    if let Some(replay) = origin.replay {
        replay_tag::write(&mut headers, replay);
    }
    headers.insert(retry::STREAM, origin.stream);
    headers.insert(retry::SEQUENCE, origin.sequence.to_string());
    headers.insert(retry::IDENTITY, &*origin.identity);
    headers.insert(retry::FAILURES, past.failures.to_string());
    if past.deferrals > 0 {
        headers.insert(
            retry::DEFERRALS,
            past.deferrals.min(MAX_DEFERRALS).to_string(),
        );
    }
    if let Some(at) = past.first_failed_at {
        headers.insert(retry::FIRST_FAILED_AT, time(at));
    }
    headers.insert(server::SCHEDULE, format!("{AT}{}", time(due)));
    let target = subjects::retry(origin.subscriber, message.subject.as_str());
    headers.insert(server::SCHEDULE_TARGET, target);
    // No message id: the subject identifies the event, and a schedule with the same subject replaces the previous one.
    // With an id, the failure of an event that is delivered again from the beginning would be dropped as a duplicate.
    headers
}

/// A message that waits for its next attempt, as the stream of retries stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) subscriber: String,
    /// The event's identity, which no other event has.
    pub(crate) identity: Option<String>,
    pub(crate) envelope: Envelope,
    pub(crate) failures: u32,
    pub(crate) first_failed_at: Option<DateTime<Utc>>,
    /// When the next attempt is due; `None` when that is now.
    pub(crate) due: Option<DateTime<Utc>>,
    /// How often it was redriven before.
    pub(crate) redrives: u32,
    pub(crate) stored_at: DateTime<Utc>,
}

impl Waiting {
    /// `None` for a message that is not an event.
    pub(crate) fn of(kept: &StoredMessage) -> Option<Self> {
        let header = |name: &str| header(kept, name);
        if kept.is_marker() {
            return None;
        }
        let counted = |name| header(name).map_or(0, count);
        let (subscriber, name) = subjects::parts_of_retry(due_subject(kept))?;
        let identity = header(retry::IDENTITY).map(str::to_owned);
        let foreign = || identity.clone().unwrap_or_default();
        let own = |(name, value): &&(String, String)| name != wire::MESSAGE_ID && !value.is_empty();
        let headers = kept.headers.iter().filter(own);
        let headers = headers.map(|(name, value)| match name == retry::MESSAGE_ID {
            true => (wire::MESSAGE_ID, value.as_str()),
            false => (name.as_str(), value.as_str()),
        });
        Some(Self {
            subscriber: subscriber.to_owned(),
            envelope: wire::read(name, headers, kept.payload.clone(), foreign).ok()?,
            failures: counted(retry::FAILURES),
            first_failed_at: header(retry::FIRST_FAILED_AT).and_then(|at| at.parse().ok()),
            due: due_at(kept),
            redrives: counted(redrive::COUNT),
            stored_at: kept.stored_at,
            identity,
        })
    }
}

/// When a retry is due; `None` when that is now.
pub(in crate::nats) fn due_at(kept: &StoredMessage) -> Option<DateTime<Utc>> {
    let schedule = header(kept, server::SCHEDULE)?;
    schedule.strip_prefix(AT)?.parse().ok()
}

/// The subject of a retry when it is due.
pub(in crate::nats) fn due_subject(kept: &StoredMessage) -> &str {
    header(kept, server::SCHEDULE_TARGET).unwrap_or(&kept.subject)
}

fn header<'a>(kept: &'a StoredMessage, name: &str) -> Option<&'a str> {
    let mut headers = kept.headers.iter();
    headers.find_map(|(known, value)| (known == name).then_some(&**value))
}

/// Identifies the event's passage through its subscriber, from its first delivery or from a redrive: a word for a
/// subject.
pub(in crate::nats) fn id_of(origin: &Origin<'_>) -> String {
    let headers = origin.message.headers.as_ref();
    let redrive = headers.and_then(|headers| headers.get(redrive::SEQUENCE));
    let redrive = redrive.map_or("", |redrive| redrive.as_str());
    let replay = origin.replay.map(|replay| replay.id.to_string());
    let replay = replay.unwrap_or_default();
    let life = format!("{}/{redrive}{replay}", origin.identity);
    Uuid::new_v5(&Uuid::NAMESPACE_OID, life.as_bytes())
        .simple()
        .to_string()
}

/// The message id that the publisher has set.
pub(in crate::nats) fn message_id(message: &Message) -> Option<&str> {
    let headers = message.headers.as_ref()?;
    Some(headers.get(wire::MESSAGE_ID)?.as_str())
}
