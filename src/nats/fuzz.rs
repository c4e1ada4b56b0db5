//! Feeds arbitrary data of other writers to the readers of this module: messages, entries of the bucket, dead letters,
//! answers, subjects. Only for tests.

mod answers;
mod entries;
mod messages;
mod subjects;
mod wire;

use std::str::FromStr;

use async_nats::{HeaderName, HeaderValue, Message};
use bytes::Bytes;
use chrono::DateTime;

use super::{HeaderMap, StoredMessage};

/// A message as text: its subject, lines of headers, an empty line, its payload.
pub(crate) struct TextMessage {
    subject: String,
    headers: Vec<(String, String)>,
    payload: Bytes,
}

impl TextMessage {
    /// Reads any text as a message.
    pub(crate) fn of(text: &str) -> Self {
        let (head, payload) = text.split_once("\n\n").unwrap_or((text, ""));
        let mut lines = head.split('\n');
        let subject = lines.next().unwrap_or_default().to_owned();
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim_start_matches(' ').to_owned()))
        };
        Self {
            subject,
            headers: lines.filter_map(header).collect(),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
        }
    }

    fn lines(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The message as the client returns it; what the client cannot represent is omitted.
    fn message(self) -> Message {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_str(name), HeaderValue::from_str(value))
            {
                headers.append(name, value);
            }
        }
        Message {
            subject: self.subject.into(),
            reply: None,
            headers: (!headers.is_empty()).then_some(headers),
            status: None,
            description: None,
            length: self.payload.len(),
            payload: self.payload,
        }
    }

    /// The message as a stream stores it.
    pub(crate) fn kept(self) -> StoredMessage {
        StoredMessage {
            sequence: 7,
            stored_at: DateTime::UNIX_EPOCH,
            subject: self.subject,
            headers: self.headers,
            payload: self.payload,
        }
    }
}
