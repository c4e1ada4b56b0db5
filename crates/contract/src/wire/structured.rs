//! CloudEvents in structured mode: the whole event as one JSON object in the payload. It is converted to the equivalent
//! message in binary mode; never written.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::value::RawValue;

use super::{MAX_HEADER_BYTES, media, percent::encode, read::ReadError};

/// The attributes as headers, and the payload.
pub(super) type Opened = (Vec<(String, String)>, Bytes);

/// Takes the attributes and the data out of a structured payload.
pub(super) fn open(payload: &[u8]) -> Result<Opened, ReadError> {
    let wrapper: BTreeMap<String, &RawValue> = serde_json::from_slice(payload)
        .map_err(|error| malformed(&format!("the payload is not a JSON object ({error})")))?;
    let mut headers = Vec::with_capacity(wrapper.len());
    let mut bytes = 0;
    let (mut data, mut base64) = (None, None);
    let mut is_json = true;
    for (name, value) in wrapper {
        match &*name {
            "data" => data = Some(value),
            "data_base64" => base64 = Some(value),
            _ => {
                let Some(text) = attribute(&name, value)? else {
                    continue;
                };
                if name == "specversion" && !(text == "1" || text.starts_with("1.")) {
                    return Err(malformed(&format!(
                        "its version of CloudEvents is {text:?}, and not 1.0"
                    )));
                }
                if name == "datacontenttype" {
                    is_json = media::is_json(&text);
                }
                let value = encode(&text).into_owned();
                bytes += name.len() + value.len();
                headers.push((format!("ce-{name}"), value));
            }
        }
    }
    if bytes > MAX_HEADER_BYTES {
        return Err(malformed("its attributes are larger than headers may be"));
    }
    let payload = match (
        data.filter(|data| data.get() != "null"),
        base64.filter(|data| data.get() != "null"),
    ) {
        (Some(_), Some(_)) => return Err(malformed("it has both data and data_base64")),
        (Some(data), None) if is_json => Bytes::copy_from_slice(data.get().as_bytes()),
        // Data that is not JSON is stored as a JSON string.
        (Some(data), None) => match serde_json::from_str::<String>(data.get()) {
            Ok(text) => text.into(),
            Err(_) => Bytes::copy_from_slice(data.get().as_bytes()),
        },
        (None, Some(data)) => {
            let text: Option<String> = serde_json::from_str(data.get()).ok();
            let decoded = text.and_then(|text| STANDARD.decode(text).ok());
            decoded
                .ok_or_else(|| malformed("its data_base64 is not base64"))?
                .into()
        }
        (None, None) => Bytes::new(),
    };
    Ok((headers, payload))
}

/// An attribute as a text; `None` when it is null.
fn attribute(name: &str, value: &RawValue) -> Result<Option<String>, ReadError> {
    let value = value.get();
    match value.as_bytes().first() {
        Some(b'"') => serde_json::from_str(value)
            .map(Some)
            .map_err(|error| malformed(&format!("its attribute {name:?} is not a text ({error})"))),
        Some(b'{' | b'[') => {
            let name: String = name.chars().take(64).collect();
            Err(malformed(&format!(
                "its attribute {name:?} is neither a text nor a number"
            )))
        }
        _ if value == "null" => Ok(None),
        // A number or a boolean.
        _ => Ok(Some(value.to_owned())),
    }
}

fn malformed(why: &str) -> ReadError {
    ReadError::Malformed(format!(
        "the CloudEvent in structured mode cannot be read: {why}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Envelope, wire::read};

    /// What a foreign publisher's message on `user.created` is read as.
    fn binary(headers: &[(&str, &str)], payload: &str) -> Envelope {
        structured(headers, payload).unwrap()
    }

    const WRAPPED: (&str, &str) = (
        "content-type",
        "application/cloudevents+json; charset=utf-8",
    );

    fn structured(headers: &[(&str, &str)], payload: &str) -> Result<Envelope, ReadError> {
        let headers = headers.iter().copied();
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        read("user.created", headers, payload, || "S/7/2026".into())
    }

    #[test]
    fn structured_mode_says_the_same_as_binary_mode() {
        let wrapper = r#"{"specversion":"1.0","id":"7","source":"/sh\u00f6p","type":"user.deleted.v2","subject":"Zo\u00eb",
            "time":"2026-11-21T09:30:00Z","datacontenttype":"application/json","tenant":"acme","sampled":true,"rate":3,
            "gone":null,"data":{"n": 12345678901234567890.5}}"#;
        let headers = [
            WRAPPED,
            ("x-own", "1"),
            ("ce-id", "8"),
            ("traceparent", "00-a-b-01"),
        ];
        let opened = structured(&headers, wrapper).unwrap();
        let binary = binary(
            &[
                ("ce-id", "7"),
                ("ce-source", "/sh%C3%B6p"),
                ("ce-type", "user.deleted.v2"),
                ("ce-subject", "Zo%C3%AB"),
                ("ce-time", "2026-11-21T09:30:00Z"),
                ("ce-tenant", "acme"),
                ("ce-sampled", "true"),
                ("ce-rate", "3"),
                ("x-own", "1"),
                ("traceparent", "00-a-b-01"),
            ],
            r#"{"n": 12345678901234567890.5}"#,
        );
        assert_eq!(opened, binary);
    }

    #[test]
    fn data_is_json_text_or_base64() {
        let data = |wrapper: &str| structured(&[WRAPPED], wrapper).unwrap();
        assert_eq!(data(r#"{"data":"a\nb"}"#).payload(), r#""a\nb""#);
        assert_eq!(
            data(r#"{"data_base64":"eyJhIjoxfQ=="}"#).payload(),
            r#"{"a":1}"#
        );
        assert_eq!(data("{}").payload(), "");
        let xml = data(r#"{"datacontenttype":"text/xml","data":"<a\n/>"}"#);
        assert_eq!(
            (xml.payload(), xml.media_type()),
            (&Bytes::from("<a\n/>"), Some("text/xml"))
        );
    }

    #[test]
    fn a_wrapper_that_cannot_be_read_says_why() {
        let long = format!(r#"{{"subject":"{}"}}"#, "k".repeat(70_000));
        for (wrapper, why) in [
            ("", "JSON object"),
            ("[]", "JSON object"),
            (r#"{"data":1,"data_base64":"AA=="}"#, "both"),
            (r#"{"data_base64":"*"}"#, "not base64"),
            (r#"{"subject":{"a":1}}"#, "neither a text"),
            (
                r#"{"specversion":"0.3"}"#,
                "version of CloudEvents is \"0.3\"",
            ),
            (&long, "larger than headers"),
        ] {
            let refused = structured(&[WRAPPED], wrapper).unwrap_err().to_string();
            assert!(refused.contains(why) && refused.len() < 400, "{refused}");
        }
    }
}
