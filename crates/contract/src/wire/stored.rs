//! The parts of an envelope that have no column of their own in the outbox. Never the columns, nor the database.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{CAUSATION, CORRELATION, SOURCE, TIME, TRACEPARENT, TRACESTATE, time_text};
use crate::{Envelope, EnvelopeError, EventId, HeaderError, Headers, headers, lineage::checked};

/// Source, time, lineage, extensions and the user's own headers of an envelope, for the outbox: a JSON object of texts,
/// with the header names of the wire and without percent-encoding. `{}` when there is none.
#[must_use]
pub fn stored_headers(envelope: &Envelope) -> String {
    let lineage = &envelope.lineage;
    let time = envelope.time.map(time_text);
    let system = [
        (SOURCE, envelope.source.as_deref()),
        (TIME, time.as_deref()),
        (CORRELATION, lineage.correlation_id.as_deref()),
        (CAUSATION, lineage.causation_id.as_deref()),
        (TRACEPARENT, lineage.traceparent.as_deref()),
        (TRACESTATE, lineage.tracestate.as_deref()),
    ];
    let said = system
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    let said = said.chain(envelope.headers.iter());
    let said = said.map(|(name, value)| (name.to_owned(), value.into()));
    let extensions = envelope.extensions.iter();
    let extensions = extensions.map(|(name, value)| (format!("ce-{name}"), value.into()));
    let object: serde_json::Map<_, _> = said.chain(extensions).collect();
    serde_json::Value::Object(object).to_string()
}

/// Why a row of the outbox is not an event. Only another writer than this crate can store such a row.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoredError {
    /// Name, version or key is refused.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The headers are not what [`stored_headers`] writes.
    #[error("the headers of the row are not a JSON object of texts")]
    Json(#[from] serde_json::Error),
    /// The header `ce-time` is not a time.
    #[error("the header ce-time of the row is not a time such as 2026-11-21T09:30:00Z")]
    Time(#[from] chrono::ParseError),
    /// A header is refused.
    #[error(transparent)]
    Header(#[from] HeaderError),
}

/// Reads an envelope from the columns of the outbox. `headers` is the JSON that [`stored_headers`] writes, or the same
/// written by hand: names are compared without case, and an empty text counts as `{}`.
///
/// # Errors
/// [`StoredError`], which names the invalid column.
pub fn from_stored(
    id: EventId,
    name: &str,
    version: u32,
    key: Option<&str>,
    headers: &str,
    payload: Bytes,
) -> Result<Envelope, StoredError> {
    let mut envelope = Envelope::raw(name, version, key, payload)?.with_id(id);
    if headers.is_empty() || headers == "{}" {
        return Ok(envelope);
    }
    let stored: BTreeMap<String, String> = serde_json::from_str(headers)?;
    let (mut own, lineage) = (Vec::new(), &mut envelope.lineage);
    for (name, value) in stored {
        let known = name.to_ascii_lowercase();
        let slot = match &*known {
            TIME => {
                envelope.time = Some(value.parse()?);
                continue;
            }
            SOURCE => &mut envelope.source,
            CORRELATION => &mut lineage.correlation_id,
            CAUSATION => &mut lineage.causation_id,
            TRACEPARENT => &mut lineage.traceparent,
            TRACESTATE => &mut lineage.tracestate,
            known => {
                let extension = known.strip_prefix("ce-").map(str::to_owned);
                let kept = extension.map(|name| envelope.extensions.keep(name, value.clone()));
                match kept {
                    Some(Ok(())) => {}
                    // The name of another attribute, or not an attribute's name at all.
                    Some(Err(HeaderError::Extension(_))) => {
                        return Err(HeaderError::Reserved(name).into());
                    }
                    Some(Err(refused)) => return Err(refused.into()),
                    None => own.push(headers::checked(name, value)?),
                }
                continue;
            }
        };
        *slot = Some(checked(&name, value)?);
    }
    // The value of the last spelling is kept.
    envelope.headers = Headers::sorted(own, |_, last| last);
    Ok(envelope)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(headers: &str) -> Result<Envelope, StoredError> {
        from_stored(
            EventId::now(),
            "user.created",
            1,
            None,
            headers,
            Bytes::new(),
        )
    }

    #[test]
    fn headers_that_are_not_texts_are_refused() {
        for headers in ["[]", "null", r#"{"a":1}"#, r#"{"a":"b""#] {
            assert!(
                matches!(row(headers), Err(StoredError::Json(_))),
                "{headers}"
            );
        }
    }

    #[test]
    fn a_header_that_cannot_be_sent_is_refused() {
        for headers in [
            r#"{"a b":"x"}"#,
            r#"{"a":"x\r\ny"}"#,
            r#"{"traceparent":"a\r\nX: y"}"#,
            r#"{"ce-source":""}"#,
            r#"{"ce-correlationid":" a"}"#,
            r#"{"ce-type":"user.deleted.v1"}"#,
            r#"{"Nats-Rollup":"all"}"#,
        ] {
            assert!(
                matches!(row(headers), Err(StoredError::Header(_))),
                "{headers}"
            );
        }
    }

    #[test]
    fn an_invalid_time_is_refused() {
        let refused = row(r#"{"ce-time":"yesterday"}"#);
        assert!(matches!(refused, Err(StoredError::Time(_))));
    }

    #[test]
    fn an_invalid_name_is_refused() {
        let refused = from_stored(EventId::now(), "nope", 1, None, "{}", Bytes::new());
        assert!(matches!(refused, Err(StoredError::Envelope(_))));
    }

    #[test]
    fn headers_written_by_hand_are_known_in_any_case() {
        let read =
            row(r#"{"Traceparent":"00-a-b-01","CE-Source":"billing","Tenant":"acme"}"#).unwrap();
        assert_eq!(read.lineage().traceparent.as_deref(), Some("00-a-b-01"));
        assert_eq!(read.source(), Some("billing"));
        assert_eq!(read.headers().get("tenant"), Some("acme"));
    }

    #[test]
    fn an_envelope_without_metadata_stores_an_empty_object() {
        let envelope = Envelope::raw("user.created", 1, None, "{}").unwrap();
        assert_eq!(stored_headers(&envelope), "{}");
        assert_eq!(row("").unwrap().headers(), envelope.headers());
    }
}
