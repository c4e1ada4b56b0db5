//! CloudEvents in structured mode: the whole event as one JSON object in the payload. Read as the message in binary
//! mode that says the same; never written.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde_json::value::RawValue;

use super::{MAX_HEADER_BYTES, media, percent::encode, read::ReadError};

/// The attributes as headers, and the payload.
pub(super) type Opened = (Vec<(String, String)>, Bytes);

/// Takes an event out of its wrapper.
pub(super) fn open(payload: &[u8]) -> Result<Opened, ReadError> {
    let wrapper: BTreeMap<String, &RawValue> = serde_json::from_slice(payload)
        .map_err(|error| malformed(&format!("the payload is not its JSON object ({error})")))?;
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
                        "it is of version {text:?} of CloudEvents, and not of 1.0"
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
        // What is not JSON stands there as a text.
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
            .map_err(|error| malformed(&format!("its attribute {name:?} is no text ({error})"))),
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
