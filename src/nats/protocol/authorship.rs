//! Which headers and messages have which author: those that only Tidings writes, and those that JetStream writes
//! itself. The only place that decides which headers are trusted. Never decides what follows.
//!
//! Any publisher may write to a stream of events, so `tidings-` headers are trusted only among the retries and the dead
//! letters. They are removed from all other messages before anything reads them, and so are never passed on.

use async_nats::{HeaderMap, HeaderName};

use super::{
    headers::{RESERVED_PREFIX, server},
    server_headers::of_server,
};
use crate::nats::stream::messages::StoredMessage;

/// Whether a header is one that only Tidings writes, or looks like one to another reader.
pub(crate) fn is_reserved(name: &str) -> bool {
    begins_with(name, RESERVED_PREFIX)
}

/// Whether a header instructs the server, or comes from it.
pub(in crate::nats) fn is_of_nats(name: &str) -> bool {
    begins_with(name, server::PREFIX)
}

fn begins_with(name: &str, prefix: &str) -> bool {
    let start = name.as_bytes().get(..prefix.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
}

/// Removes the headers of Tidings from a foreign message. Nearly no message has any.
pub(in crate::nats) fn strip_reserved(headers: &mut HeaderMap) {
    let is_forged = |name: &HeaderName| is_reserved(name.as_ref());
    if headers.iter().any(|(name, _)| is_forged(name)) {
        *headers = only(headers, |name| !is_reserved(name));
    }
}

/// The wanted headers, with all their values in order.
pub(in crate::nats) fn only(headers: &HeaderMap, is_wanted: impl Fn(&str) -> bool) -> HeaderMap {
    let wanted = headers.iter().filter(|(name, _)| is_wanted(name.as_ref()));
    // Not `collect`: it would keep one value of each name.
    let mut kept = HeaderMap::new();
    for (name, values) in wanted {
        for value in values {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

/// A count in a header of Tidings: a number that is too large becomes the largest one, and invalid text becomes 0.
pub(in crate::nats) fn count(text: &str) -> u32 {
    counted(text).unwrap_or(0)
}

/// Like `count`, but `None` for invalid text.
pub(crate) fn counted(text: &str) -> Option<u32> {
    let is_count = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    is_count.then(|| text.parse().unwrap_or(u32::MAX))
}

/// Whether JetStream has written a message itself, in place of one that has expired or was deleted
/// (`subject_delete_marker_ttl`): it has a reason and no payload. It is not an event.
pub(in crate::nats) fn is_marker(headers: Option<&HeaderMap>, payload: &[u8]) -> bool {
    let Some(headers) = headers.filter(|_| payload.is_empty()) else {
        return false;
    };
    headers.get(server::MARKER_REASON).is_some()
        // An omitted payload may exist all the same.
        && of_server(headers, server::SIZE).is_none_or(|size| size == "0")
}

impl StoredMessage {
    /// Whether JetStream has written the message itself.
    pub(crate) fn is_marker(&self) -> bool {
        self.payload.is_empty()
            && self
                .headers
                .iter()
                .any(|(name, _)| name == server::MARKER_REASON)
    }
}

#[cfg(test)]
mod tests {
    use super::{server::MARKER_REASON as MARKER, server::SIZE, *};

    fn headers(given: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, *value);
        }
        headers
    }

    #[test]
    fn only_reserved_headers_are_removed() {
        let mut given = headers(&[
            ("tidings-redrives", "4294967295"),
            ("tidings-redrive", "7"),
            ("Tidings-Retry-Failures", "9"),
            ("TIDINGS-dead-cause", "x"),
            ("tidings-replay", "0"),
            ("tidings-republished", "0"),
            ("tidings", "1"),
            ("tiding-s", "1"),
            ("x-tenant", "a"),
            ("x-tenant", "b"),
        ]);
        strip_reserved(&mut given);
        let mut left: Vec<_> = given
            .iter()
            .map(|(name, values)| (name.to_string(), values.len()))
            .collect();
        left.sort();
        let expected = [("tiding-s", 1), ("tidings", 1), ("x-tenant", 2)];
        assert_eq!(
            left,
            expected.map(|(name, values)| (name.to_owned(), values))
        );
    }

    #[test]
    fn a_count_is_never_wrapped() {
        let digits = "9".repeat(5_000);
        for (text, expected) in [
            ("0", 0),
            ("007", 7),
            ("4294967295", u32::MAX),
            ("4294967296", u32::MAX),
            (&*digits, u32::MAX),
            ("", 0),
            ("-1", 0),
            ("+1", 0),
            ("1.5", 0),
            ("\u{663}", 0),
        ] {
            assert_eq!(count(text), expected, "{text:.20}");
        }
    }

    #[test]
    fn a_marker_has_a_reason_and_no_payload() {
        for reason in ["MaxAge", "Purge", "Remove"] {
            let marker = headers(&[(MARKER, reason), ("Nats-TTL", "5m0s")]);
            assert!(is_marker(Some(&marker), b""));
            assert!(!is_marker(Some(&marker), b"{}"));
        }
        let left_out = headers(&[(MARKER, "MaxAge"), (SIZE, "2")]);
        assert!(!is_marker(Some(&left_out), b""));
        let none = headers(&[(MARKER, "MaxAge"), (SIZE, "0")]);
        assert!(is_marker(Some(&none), b""));
        assert!(!is_marker(Some(&headers(&[("a", "b")])), b"") && !is_marker(None, b""));
    }
}
