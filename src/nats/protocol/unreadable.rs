//! Messages as the client would read them, and the readable parts of one that it cannot read. Never decides what
//! becomes of them, and never requests one.
//!
//! A header that is not UTF-8, has no colon or an invalid name, or a subject that is not UTF-8, ends the connection of
//! the client that receives it, every time; a carriage return in the value of a header ends the
//! [client](crate::nats::connection::client). In JSON all messages are readable.

use std::str::FromStr;

use async_nats::{HeaderMap, HeaderName, HeaderValue, Message, StatusCode};
use chrono::{DateTime, Utc};

/// A message that was requested alone.
pub(in crate::nats) struct Single {
    /// Without the unreadable headers, and without a reply subject.
    pub(in crate::nats) message: Message,
    pub(in crate::nats) sequence: u64,
    pub(in crate::nats) stored_at: DateTime<Utc>,
    /// Why the client cannot read it.
    pub(in crate::nats) fault: Option<&'static str>,
}

/// A message of a stream, byte for byte except its subject.
pub(in crate::nats) struct Raw {
    pub(in crate::nats) subject: String,
    pub(in crate::nats) sequence: u64,
    pub(in crate::nats) stored_at: DateTime<Utc>,
    pub(in crate::nats) headers: Vec<u8>,
    pub(in crate::nats) payload: Vec<u8>,
}

impl Single {
    pub(in crate::nats) fn new(raw: Raw) -> Self {
        let length = raw.subject.len() + raw.headers.len() + raw.payload.len();
        let (headers, fault) = headers(&raw.headers);
        let message = Message {
            headers: (!raw.headers.is_empty()).then_some(headers),
            reply: None,
            payload: raw.payload.into(),
            status: None,
            description: None,
            length,
            // The server replaces invalid UTF-8; and the client takes any white space for the end of the subject.
            subject: raw.subject.into(),
        };
        let is_odd = |letter: char| letter == char::REPLACEMENT_CHARACTER || letter.is_whitespace();
        let odd = message.subject.contains(is_odd);
        Self {
            fault: fault.or(odd.then_some("the subject is not valid")),
            sequence: raw.sequence,
            stored_at: raw.stored_at,
            message,
        }
    }

    /// Logs which message it is, if the client cannot read it.
    pub(in crate::nats) fn tell(&self, stream: &str) {
        if let Some(fault) = self.fault {
            tracing::warn!(
                stream,
                sequence = self.sequence,
                subject = %self.message.subject,
                fault,
                "unreadable message found: it ends each connection that receives it; its readable part is used"
            );
        }
    }
}

/// The readable headers, and why the client cannot read the others.
fn headers(raw: &[u8]) -> (HeaderMap, Option<&'static str>) {
    let mut read = HeaderMap::new();
    let mut fault = None;
    let mut open: Option<(HeaderName, String)> = None;
    let mut lines = raw.split(|byte| *byte == b'\n');
    if !raw.is_empty() && !lines.next().is_some_and(begins_headers) {
        fault = Some("the headers do not begin with NATS/1.0");
    }
    for line in lines {
        let line = match std::str::from_utf8(line) {
            Ok(line) => line.strip_suffix('\r').unwrap_or(line),
            Err(_) => {
                fault = Some("a header is not UTF-8");
                fault = close(&mut read, open.take()).or(fault);
                continue;
            }
        };
        // A value may continue on the next line.
        if let Some((_, value)) = &mut open
            && line.starts_with(char::is_whitespace)
        {
            value.push_str(line);
            continue;
        }
        fault = close(&mut read, open.take()).or(fault);
        match line
            .split_once(':')
            .map(|(name, value)| (name.parse(), value))
        {
            _ if line.is_empty() => {}
            Some((Ok(name), value)) => open = Some((name, value.to_owned())),
            Some((Err(_), _)) => fault = Some("the name of a header is not valid"),
            None => fault = Some("a header has no colon"),
        }
    }
    fault = close(&mut read, open).or(fault);
    (read, fault)
}

fn begins_headers(line: &[u8]) -> bool {
    let line = std::str::from_utf8(line).ok();
    let said = line.and_then(|line| line.strip_prefix("NATS/1.0"));
    said.is_some_and(|said| match said.split_whitespace().next() {
        Some(status) => StatusCode::from_str(status).is_ok(),
        None => true,
    })
}

/// Adds a header, if it is readable. `HeaderValue::from` would panic at a carriage return in the value.
fn close(read: &mut HeaderMap, header: Option<(HeaderName, String)>) -> Option<&'static str> {
    let (name, value) = header?;
    match HeaderValue::from_str(value.trim()) {
        Ok(value) => {
            read.append(name, value);
            None
        }
        Err(_) => Some("the value of a header has a carriage return"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn single(subject: &str, headers: &[u8]) -> Single {
        Single::new(Raw {
            subject: subject.to_owned(),
            sequence: 7,
            stored_at: DateTime::UNIX_EPOCH,
            headers: headers.to_vec(),
            payload: vec![0, 255],
        })
    }

    fn readable(single: &Single) -> Vec<(String, String)> {
        let headers = single.message.headers.iter().flat_map(HeaderMap::iter);
        let mut headers: Vec<_> = headers
            .flat_map(|(name, values)| {
                let values = values.iter();
                values.map(move |value| (name.to_string(), value.to_string()))
            })
            .collect();
        headers.sort();
        headers
    }

    #[test]
    fn readable_headers_are_preserved_and_others_left_out() {
        for bad in [
            b"x: \xff".as_slice(),
            b"no colon",
            b"a name: 1",
            "n\u{e4}me: 1".as_bytes(),
        ] {
            let raw = [b"NATS/1.0\r\na: 1\r\n", bad, b"\r\nb:2\r\n  3\r\n\r\n"].concat();
            let single = single("user.created", &raw);
            assert!(single.fault.is_some(), "{bad:?}");
            let kept = [("a", "1"), ("b", "2  3")];
            assert_eq!(
                readable(&single),
                kept.map(|(name, value)| (name.to_owned(), value.to_owned()))
            );
            assert_eq!(single.message.payload, [0, 255].as_slice());
        }
    }

    #[test]
    fn an_ordinary_message_has_no_fault() {
        let headers = b"NATS/1.0\r\na: 1\r\na: \xc3\xa4\r\n\r\n";
        assert_eq!(single("user.created", headers).fault, None);
        assert_eq!(single("user.created", b"").fault, None);
        assert!(single("user.created", b"").message.headers.is_none());
    }

    #[test]
    fn a_subject_that_the_client_takes_apart_is_a_fault() {
        assert!(single("user.\u{fffd}", b"").fault.is_some());
        assert!(single("user.\u{2003}x", b"").fault.is_some());
    }
}
