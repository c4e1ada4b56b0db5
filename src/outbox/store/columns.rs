//! The columns of a row as a database returns them, and whether they make an event. Never fails: a wrong value is a
//! flaw of its own row and affects no other row.
//!
//! The statements of both databases limit what they read: only the first 300 characters of a name or key with more than
//! 1000 bytes, which is more than is valid; no headers over [`LONGEST_HEADERS`]; no payload over what the reader can
//! use.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tidings_contract::{Envelope, EventId, Name};
use uuid::Uuid;

use super::row::Row;

/// Longer headers, in bytes of JSON, are not read. On the wire they have at most 65,535 bytes, and JSON may need six
/// for one.
pub(in crate::outbox) const LONGEST_HEADERS: usize = 400_000;
/// A republisher does not read a larger payload, in bytes: no nats-server accepts one.
pub(in crate::outbox) const LONGEST_PAYLOAD: usize = 64 * 1024 * 1024;

/// A text column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::outbox) enum Text<'a> {
    /// Null, or too long to be read.
    Absent,
    /// The bytes of the column, which need not be UTF-8.
    Bytes(&'a [u8]),
    /// A value of another type, which SQLite allows.
    #[cfg_attr(not(feature = "sqlite"), allow(dead_code))]
    Other,
}

/// A row before it is validated. A column is `None` when it has no valid value.
#[derive(Debug)]
pub(in crate::outbox) struct Columns<'a> {
    pub(in crate::outbox) id: i64,
    /// Microseconds since 1970.
    pub(in crate::outbox) at: Option<i64>,
    pub(in crate::outbox) event: Option<&'a [u8]>,
    pub(in crate::outbox) name: Text<'a>,
    pub(in crate::outbox) version: Option<i64>,
    pub(in crate::outbox) key: Text<'a>,
    pub(in crate::outbox) headers: Text<'a>,
    /// Absent when it has more than `most` bytes.
    pub(in crate::outbox) payload: Text<'a>,
    pub(in crate::outbox) most: usize,
}

impl Columns<'_> {
    /// Validates the row; it has a flaw when a column is not valid. The valid columns are kept.
    pub(in crate::outbox) fn row(self) -> Row {
        let flaw = self.flaw();
        let key = match self.key {
            Text::Bytes(key) if key.len() <= Envelope::MAX_KEY_BYTES => str::from_utf8(key).ok(),
            _ => None,
        };
        let payload = match self.payload {
            Text::Bytes(payload) if flaw.is_none() => Bytes::copy_from_slice(payload),
            _ => Bytes::new(),
        };
        Row {
            id: self.id,
            at: nearest(self.at),
            event: event_or_nil(self.event),
            name: self.name.shown().unwrap_or_default(),
            version: nearest_version(self.version),
            key: key.map(str::to_owned),
            headers: self.headers.shown().unwrap_or_default(),
            payload,
            flaw: flaw.map(|flaw| match self.is_too_large() {
                true => flaw,
                false => format!("the row is not an event: {flaw}"),
            }),
        }
    }

    /// Whether its unread payload is its only flaw, as far as was checked: the row may then be an event.
    fn is_too_large(&self) -> bool {
        let rest = Self {
            payload: Text::Bytes(&[]),
            ..*self
        };
        matches!(self.payload, Text::Absent) && rest.flaw().is_none()
    }

    /// Why the row is not an event, as far as single columns show it.
    fn flaw(&self) -> Option<String> {
        if self.at.and_then(time).is_none() {
            return Some("its time is not between the years 1 and 9999".to_owned());
        }
        if self.event.and_then(event).is_none() {
            return Some("its event id is not a UUID of 16 bytes".to_owned());
        }
        if self
            .version
            .is_none_or(|version| i32::try_from(version).is_err())
        {
            let max = Envelope::MAX_VERSION;
            return Some(format!("its version is not a whole number from 1 to {max}"));
        }
        let texts = [
            ("name", self.name, Name::MAX_BYTES),
            ("key", self.key, Envelope::MAX_KEY_BYTES),
            ("headers", self.headers, LONGEST_HEADERS),
        ];
        if let Some(flaw) = texts
            .into_iter()
            .find_map(|(what, text, most)| text.flaw(what, most))
        {
            return Some(flaw);
        }
        match self.payload {
            Text::Bytes(_) => None,
            Text::Absent if self.most == LONGEST_PAYLOAD => Some(format!(
                "its payload has more than {} bytes, which no nats-server accepts",
                self.most
            )),
            Text::Absent => Some(format!(
                "its payload has more than {} bytes, the max_payload of the nats-server: raise max_payload and unpark \
                 the event, or discard the event and publish where its data is",
                self.most
            )),
            Text::Other => Some("its payload is not a blob".to_owned()),
        }
    }
}

impl Text<'_> {
    /// The text, as far as it can be decoded.
    pub(in crate::outbox) fn shown(self) -> Option<String> {
        match self {
            Self::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Self::Absent | Self::Other => None,
        }
    }

    fn flaw(self, what: &str, most: usize) -> Option<String> {
        match self {
            // A missing key is valid.
            Self::Absent if what == "key" => None,
            Self::Bytes(bytes) if bytes.len() <= most && str::from_utf8(bytes).is_ok() => None,
            Self::Absent => Some(format!("the column {what} has more than {most} bytes")),
            Self::Bytes(bytes) if bytes.len() > most => {
                Some(format!("the column {what} has more than {most} bytes"))
            }
            Self::Bytes(_) => Some(format!("the column {what} is not UTF-8")),
            Self::Other => Some(format!("the column {what} is not text")),
        }
    }
}

/// A time that every reader can represent: in the years 1 to 9999, the range of RFC 3339.
pub(in crate::outbox) fn time(micros: i64) -> Option<DateTime<Utc>> {
    (FIRST..=LAST)
        .contains(&micros)
        .then(|| DateTime::from_timestamp_micros(micros))
        .flatten()
}

/// The time, or the nearest one in that range.
pub(in crate::outbox) fn nearest(micros: Option<i64>) -> DateTime<Utc> {
    let micros = micros.unwrap_or(0).clamp(FIRST, LAST);
    DateTime::from_timestamp_micros(micros).unwrap_or(DateTime::UNIX_EPOCH)
}

/// The beginning of the year 1, and the end of 9999, in microseconds since 1970.
const FIRST: i64 = -62_135_596_800_000_000;
const LAST: i64 = 253_402_300_799_999_999;

fn event(bytes: &[u8]) -> Option<EventId> {
    Uuid::from_slice(bytes).ok().map(EventId::from)
}

/// The event's id, or the nil id, which no event has.
pub(in crate::outbox) fn event_or_nil(bytes: Option<&[u8]>) -> EventId {
    bytes.and_then(event).unwrap_or(Uuid::nil().into())
}

/// The version, or the nearest one that can be represented.
pub(in crate::outbox) fn nearest_version(version: Option<i64>) -> i32 {
    let version = version.unwrap_or(0);
    i32::try_from(version).unwrap_or(if version < 0 { i32::MIN } else { i32::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns<'a>() -> Columns<'a> {
        Columns {
            id: 7,
            at: Some(0),
            event: Some(&[7; 16]),
            name: Text::Bytes(b"a.b"),
            version: Some(1),
            key: Text::Absent,
            headers: Text::Bytes(b"{}"),
            payload: Text::Bytes(b"1"),
            most: 10,
        }
    }

    #[test]
    fn a_valid_event_has_no_flaw() {
        let row = columns().row();
        assert_eq!(
            (row.flaw, row.key, &row.payload[..]),
            (None, None, &b"1"[..])
        );
        for at in [FIRST, LAST] {
            let row = Columns {
                at: Some(at),
                ..columns()
            }
            .row();
            assert_eq!(row.flaw, None);
        }
    }

    #[test]
    fn an_invalid_column_is_the_flaw_of_its_row() {
        let long = [b'k'; 300];
        let flawed = [
            (
                Columns {
                    at: None,
                    ..columns()
                },
                "time",
            ),
            (
                Columns {
                    at: Some(i64::MAX),
                    ..columns()
                },
                "time",
            ),
            (
                Columns {
                    at: Some(i64::MIN),
                    ..columns()
                },
                "time",
            ),
            (
                Columns {
                    at: Some(LAST + 1),
                    ..columns()
                },
                "time",
            ),
            (
                Columns {
                    event: None,
                    ..columns()
                },
                "event id",
            ),
            (
                Columns {
                    event: Some(&[7; 15]),
                    ..columns()
                },
                "event id",
            ),
            (
                Columns {
                    version: None,
                    ..columns()
                },
                "version",
            ),
            (
                Columns {
                    version: Some(1 << 31),
                    ..columns()
                },
                "version",
            ),
            (
                Columns {
                    version: Some(i64::MIN),
                    ..columns()
                },
                "version",
            ),
            (
                Columns {
                    name: Text::Bytes(b"a\xff.b"),
                    ..columns()
                },
                "column name is not UTF-8",
            ),
            (
                Columns {
                    name: Text::Other,
                    ..columns()
                },
                "column name is not text",
            ),
            (
                Columns {
                    name: Text::Absent,
                    ..columns()
                },
                "column name has more than",
            ),
            (
                Columns {
                    name: Text::Bytes(&long),
                    ..columns()
                },
                "name has more than 200 bytes",
            ),
            (
                Columns {
                    key: Text::Bytes(b"\xff"),
                    ..columns()
                },
                "column key is not UTF-8",
            ),
            (
                Columns {
                    key: Text::Bytes(&long),
                    ..columns()
                },
                "key has more than 256 bytes",
            ),
            (
                Columns {
                    headers: Text::Absent,
                    ..columns()
                },
                "column headers has more than",
            ),
            (
                Columns {
                    headers: Text::Bytes(b"\xc3"),
                    ..columns()
                },
                "column headers is not UTF-8",
            ),
            (
                Columns {
                    payload: Text::Absent,
                    ..columns()
                },
                "10 bytes, the max_payload of the nats-server: raise max_payload and unpark the event",
            ),
            (
                Columns {
                    payload: Text::Other,
                    ..columns()
                },
                "payload is not a blob",
            ),
        ];
        for (columns, expected) in flawed {
            let row = columns.row();
            let flaw = row.flaw.unwrap_or_default();
            assert!(flaw.contains(expected), "{expected}: {flaw}");
            assert!(flaw.is_ascii(), "every encoding can hold it: {flaw}");
            assert!(row.payload.is_empty());
        }
    }

    #[test]
    fn a_row_that_is_too_large_is_reported_as_that() {
        let large = |at| Columns {
            at,
            payload: Text::Absent,
            ..columns()
        };
        let flaw = large(Some(0)).row().flaw.unwrap();
        assert!(flaw.starts_with("its payload has more than"), "{flaw}");
        let flaw = large(None).row().flaw.unwrap();
        assert!(flaw.starts_with("the row is not an event"), "{flaw}");
    }

    #[test]
    fn a_readable_key_is_reported_of_a_row_with_another_flaw() {
        let key = Text::Bytes(b"k");
        let row = Columns {
            at: None,
            key,
            ..columns()
        }
        .row();
        assert_eq!(row.key.as_deref(), Some("k"));
    }
}
