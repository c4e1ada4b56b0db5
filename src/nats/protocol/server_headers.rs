//! The headers that the server adds to a stored message. Never reads what the publisher states.
//!
//! A publisher may have written headers with the same names, and the server keeps them: its own headers come after
//! them.

use async_nats::{HeaderMap, Message};
use chrono::{DateTime, Utc};

use super::headers::server;

/// The headers that the server adds to a message that is read with a direct get.
const ADDED: [&str; 7] = [
    server::STREAM,
    server::SUBJECT,
    server::SEQUENCE,
    server::TIME,
    server::PENDING,
    server::LAST_SEQUENCE,
    server::UP_TO_SEQUENCE,
];

/// The position of a message that was read with a direct get.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::nats) struct StoredAt<'a> {
    pub(in crate::nats) sequence: u64,
    pub(in crate::nats) time: DateTime<Utc>,
    pub(in crate::nats) subject: &'a str,
}

impl<'a> StoredAt<'a> {
    /// `None` when the server does not state it.
    pub(in crate::nats) fn of(message: &'a Message) -> Option<Self> {
        let headers = message.headers.as_ref()?;
        Some(Self {
            sequence: of_server(headers, server::SEQUENCE)?.parse().ok()?,
            time: of_server(headers, server::TIME)?.parse().ok()?,
            subject: of_server(headers, server::SUBJECT)?,
        })
    }
}

/// The header that the server has added.
pub(in crate::nats) fn of_server<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    Some(headers.get_all(name).last()?.as_str())
}

/// Whether the server adds such a header to a direct get. A publisher's header of this name means nothing.
pub(in crate::nats) fn is_of_server(name: &str) -> bool {
    ADDED.contains(&name)
}

/// The size of the payload that the server states to have omitted. A publisher may have forged the header: the stream
/// shows whether it is true.
pub(in crate::nats) fn left_out(message: &Message) -> Option<usize> {
    if !message.payload.is_empty() {
        return None;
    }
    let size = of_server(message.headers.as_ref()?, server::SIZE)?;
    size.parse().ok().filter(|size| *size > 0)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(headers: &[(&str, &str)], payload: &'static [u8]) -> Message {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, *value);
        }
        Message {
            subject: "s".into(),
            reply: None,
            payload: Bytes::from_static(payload),
            headers: Some(map),
            status: None,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn headers_of_the_server_come_after_forged_ones() {
        let forged = message(
            &[
                ("Nats-Sequence", "1"),
                ("Nats-Subject", "forged"),
                ("Nats-Time-Stamp", "2000-01-01T00:00:00Z"),
                ("Nats-Sequence", "7"),
                ("Nats-Subject", "real"),
                ("Nats-Time-Stamp", "2026-01-01T00:00:00Z"),
            ],
            b"{}",
        );
        let at = StoredAt::of(&forged).unwrap();
        assert_eq!((at.sequence, at.subject), (7, "real"));
        assert_eq!(at.time.to_rfc3339(), "2026-01-01T00:00:00+00:00");
    }

    #[test]
    fn a_payload_is_absent_when_the_server_says_so() {
        let sizes = [("Nats-Msg-Size", "99"), ("Nats-Msg-Size", "7")];
        assert_eq!(left_out(&message(&sizes, b"")), Some(7));
        assert_eq!(left_out(&message(&sizes, b"{}")), None);
        assert_eq!(left_out(&message(&[("Nats-Msg-Size", "0")], b"")), None);
        assert_eq!(left_out(&message(&[], b"")), None);
    }
}
