//! The messages of a stream, for operations: reads them in pages and one by one, removes one, and stores one again.
//! Never decides which, and never interprets them.
//!
//! Pages are read with `DIRECT.GET`, which needs no consumer and keeps no more than one page in memory. A message whose
//! headers a client cannot read ends its connection; so a page that cannot be read is read message by message, in JSON,
//! which is always readable.

use std::{str::FromStr, time::Duration};

use async_nats::{HeaderMap, HeaderName, HeaderValue, Message, StatusCode};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::streams::StreamSpec;
use crate::nats::{
    Bus, BusError, StartFrom,
    protocol::{
        api, codes,
        server_headers::{StoredAt, is_of_server},
        unreadable::Raw,
    },
};

/// The size of a page, in messages and in bytes.
const PAGE: usize = 256;
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// How many messages are read one by one before a page is tried again.
const SINGLES: usize = 32;
/// How long the next message of a page may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// A stored message of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredMessage {
    pub(crate) sequence: u64,
    pub(crate) stored_at: DateTime<Utc>,
    pub(crate) subject: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) payload: Bytes,
}

/// The properties of a stream that operations need.
#[derive(Debug, Clone)]
pub(crate) struct StreamInfo {
    /// When it was created, as the server writes it: distinguishes it from another stream of the same name.
    pub(crate) incarnation: String,
    pub(crate) last_sequence: u64,
    /// Whether a message can be removed.
    pub(crate) can_remove: bool,
}

impl Bus {
    /// Fails when the stream of dead letters confirms a dead letter and does not store it: with `interest` it stores
    /// only what a consumer waits for, and there is none.
    pub(in crate::nats) async fn check_keeps_dead_letters(&self) -> Result<(), BusError> {
        let stream = StreamSpec::dead_letters().name;
        let info = match self.stream_info(&stream).await {
            Ok(info) => info,
            // A user that may not read the settings cannot know: the dead letter is stored anyway.
            Err(BusError::Denied { .. }) => None,
            Err(error) => return Err(error),
        };
        match info.is_some_and(|info| info.config.get("retention") == Some(&json!("interest"))) {
            true => Err(BusError::Settings {
                issue: format!(
                    "retention of {stream} is interest: the stream would confirm the dead letter and not keep it, so \
                     the event is retried instead; set retention back with `tidings streams apply`"
                ),
            }),
            false => Ok(()),
        }
    }

    /// The properties of a stream that operations need; `None` when there is no such stream.
    pub(crate) async fn upkeep(&self, stream: &str) -> Result<Option<StreamInfo>, BusError> {
        Ok(self.stream_info(stream).await?.map(|info| {
            let is_set = |setting: &str| info.config.get(setting) == Some(&json!(true));
            StreamInfo {
                can_remove: !is_set("deny_delete") && !is_set("sealed"),
                last_sequence: info.state.last_seq,
                incarnation: info.created,
            }
        }))
    }

    /// The messages from a position on, in order, as many as fit into a page; empty at the end.
    pub(crate) async fn page(
        &self,
        stream: &str,
        subjects: &str,
        start: StartFrom,
    ) -> Result<Vec<StoredMessage>, BusError> {
        let why = match self.page_at_once(stream, subjects, start).await {
            Ok(page) => return Ok(page),
            Err(error @ BusError::Refused { .. }) => return Err(error),
            Err(error) => error,
        };
        tracing::debug!(stream, %why, "page read failed: its messages are read one by one");
        let mut next = match start {
            StartFrom::Sequence(sequence) => sequence.max(1),
            // Only a page can start at a time: the caller also checks the times.
            _ => 1,
        };
        let mut page = Vec::new();
        while page.len() < SINGLES {
            let wanted = json!({ "seq": next, "next_by_subj": subjects });
            let Some(kept) = self.single(stream, &wanted).await? else {
                break;
            };
            next = kept.sequence.saturating_add(1);
            page.push(kept);
        }
        Ok(page)
    }

    /// One message of a stream, requested from the leader, which is always up to date.
    pub(crate) async fn kept(
        &self,
        stream: &str,
        sequence: u64,
    ) -> Result<Option<StoredMessage>, BusError> {
        self.single(stream, &json!({ "seq": sequence })).await
    }

    /// Removes a message from a stream; false when it did not exist.
    pub(crate) async fn remove(&self, stream: &str, sequence: u64) -> Result<bool, BusError> {
        let subject = api::message_delete(stream);
        let request = json!({ "seq": sequence, "no_erase": true });
        match self.api::<Value>(&subject, &request).await {
            Ok(_) => Ok(true),
            // The server only reports that it failed; a missing message is no failure.
            Err(error @ BusError::Refused { .. }) => match self.kept(stream, sequence).await? {
                Some(_) => Err(error),
                None => Ok(false),
            },
            Err(error) => Err(error),
        }
    }

    /// Stores a message in this stream, confirmed, and returns its sequence there; headers that no client may send are
    /// omitted.
    pub(crate) async fn store_again(
        &self,
        stream: &str,
        subject: &str,
        headers: &[(String, String)],
        payload: &Bytes,
    ) -> Result<u64, BusError> {
        let headers = header_map(headers);
        let storing = self.store(subject.to_owned(), headers, payload.clone());
        let receipt = storing.await?;
        match receipt.stream == stream {
            true => Ok(receipt.seq),
            false => Err(BusError::Broken {
                subject: subject.to_owned(),
                reason: format!(
                    "the stream {} stored the message, and not {stream}",
                    receipt.stream
                ),
            }),
        }
    }

    async fn page_at_once(
        &self,
        stream: &str,
        subjects: &str,
        start: StartFrom,
    ) -> Result<Vec<StoredMessage>, BusError> {
        let subject = api::direct_get(stream);
        let broken = |reason: String| BusError::Broken {
            subject: subject.clone(),
            reason,
        };
        let mut wanted =
            json!({ "next_by_subj": subjects, "batch": PAGE, "max_bytes": PAGE_BYTES });
        match start {
            StartFrom::Sequence(sequence) => wanted["seq"] = json!(sequence.max(1)),
            StartFrom::Time(time) => {
                wanted["start_time"] = json!(time.to_rfc3339_opts(SecondsFormat::Nanos, true));
            }
            _ => wanted["seq"] = json!(1),
        }
        // Watches from before the request on: the client may stop at one message while earlier ones are read.
        let mut lost = self.lost.clone();
        lost.mark_unchanged();
        let inbox = self.client.new_inbox();
        let replies = self.client.subscribe(inbox.clone()).await;
        let mut replies = replies.map_err(|error| broken(error.to_string()))?;
        let wanted = Bytes::from(wanted.to_string());
        let asking = self
            .client
            .publish_with_reply(subject.clone(), inbox, wanted);
        asking.await.map_err(|error| broken(error.to_string()))?;
        let mut page = Vec::new();
        loop {
            let reply = tokio::select! {
                biased;
                reply = replies.next() => reply,
                Ok(()) = lost.changed() => None,
                () = tokio::time::sleep(PATIENCE) => {
                    return Err(BusError::Timeout {
                        subject,
                        after: PATIENCE,
                    });
                }
            };
            let Some(reply) = reply else {
                return Err(broken(crate::nats::CONNECTION_LOST.to_owned()));
            };
            match (reply.status, reply.description.as_deref()) {
                (None, _) => {
                    let kept = StoredMessage::of_direct(reply);
                    page.push(
                        kept.ok_or_else(|| broken("a message has no stream position".to_owned()))?,
                    );
                }
                (Some(StatusCode::NO_RESPONDERS), _) => {
                    return Err(BusError::NoResponders { subject });
                }
                // The end of the page; there are no (more) messages.
                (Some(status), _) if is_end_of_page(status) => return Ok(page),
                (Some(status), said) => {
                    return Err(broken(format!("{status} {}", said.unwrap_or_default())));
                }
            }
        }
    }

    /// One message, requested from the leader.
    pub(crate) async fn single(
        &self,
        stream: &str,
        wanted: &Value,
    ) -> Result<Option<StoredMessage>, BusError> {
        Ok(self.raw(stream, wanted).await?.map(StoredMessage::of_raw))
    }

    /// Like `single`, but byte for byte.
    pub(in crate::nats) async fn raw(
        &self,
        stream: &str,
        wanted: &Value,
    ) -> Result<Option<Raw>, BusError> {
        #[derive(Deserialize)]
        struct Answer {
            message: Told,
        }
        let subject = api::message_get(stream);
        match self.api::<Answer>(&subject, wanted).await {
            Ok(Answer { message }) => match message.raw() {
                Some(raw) => Ok(Some(raw)),
                None => Err(BusError::Broken {
                    subject,
                    reason: "the message is not base64".to_owned(),
                }),
            },
            Err(BusError::Refused {
                code: codes::MESSAGE_NOT_FOUND,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn is_end_of_page(status: StatusCode) -> bool {
    [codes::status::END_OF_BATCH, codes::status::NO_MESSAGES].contains(&status.as_u16())
}

impl StoredMessage {
    /// `None` when the server does not state the position of the message.
    pub(in crate::nats) fn of_direct(message: Message) -> Option<Self> {
        let at = StoredAt::of(&message)?;
        let (sequence, stored_at, subject) = (at.sequence, at.time, at.subject.to_owned());
        let headers = message.headers.iter().flat_map(HeaderMap::iter);
        let own = headers.flat_map(|(name, values)| {
            let name: &str = name.as_ref();
            let is_own = !is_of_server(name);
            let own = values.iter().filter(move |_| is_own);
            own.map(move |value| (name.to_owned(), value.as_str().to_owned()))
        });
        let mut own: Vec<(String, String)> = own.collect();
        // The values of one name stay in their order: the first one counts.
        own.sort_by(|(a, _), (b, _)| a.cmp(b));
        Some(Self {
            sequence,
            stored_at,
            subject,
            headers: own,
            payload: message.payload,
        })
    }

    /// Reads a message with any headers.
    pub(in crate::nats) fn of_raw(raw: Raw) -> Self {
        let headers = String::from_utf8_lossy(&raw.headers);
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.trim().to_owned(), value.trim().to_owned()))
        };
        let mut headers: Vec<_> = headers.lines().skip(1).filter_map(header).collect();
        headers.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self {
            sequence: raw.sequence,
            stored_at: raw.stored_at,
            subject: raw.subject,
            headers,
            payload: raw.payload.into(),
        }
    }
}

/// A message as the API returns it in JSON.
#[derive(Deserialize)]
pub(in crate::nats) struct Told {
    subject: String,
    seq: u64,
    time: DateTime<Utc>,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
}

impl Told {
    pub(in crate::nats) fn raw(self) -> Option<Raw> {
        Some(Raw {
            subject: self.subject,
            sequence: self.seq,
            stored_at: self.time,
            headers: STANDARD.decode(self.hdrs).ok()?,
            payload: STANDARD.decode(self.data).ok()?,
        })
    }
}

/// Headers for the client to send. Those that it cannot send are omitted: their publisher wrote something unreadable.
pub(in crate::nats) fn header_map(headers: &[(String, String)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::from_str(name), HeaderValue::from_str(value)) {
            map.append(name, value);
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_with_any_headers() {
        let told = Told {
            subject: "dead-letter.x".to_owned(),
            seq: 7,
            time: DateTime::UNIX_EPOCH,
            hdrs: STANDARD.encode(b"NATS/1.0\r\nb: 1\r\nno colon\r\na: \xff\r\n\r\n"),
            data: STANDARD.encode([0, 255]),
        };
        let kept = StoredMessage::of_raw(told.raw().unwrap());
        let headers = [("a", "\u{fffd}"), ("b", "1")];
        assert_eq!(
            kept.headers,
            headers.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        assert_eq!(kept.payload, [0, 255].as_slice());
    }

    #[test]
    fn messages_that_no_client_could_send_are_left_out() {
        let headers = [("ok", "1"), ("bad name", "2"), ("x", "line\nline")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(header_map(&headers).len(), 1);
    }
}
