//! The format of a payload, by the message's headers. Never looks at the payload.

use super::read::ReadError;

/// The prefix of the media types of CloudEvents in structured and batch mode.
const CLOUDEVENTS: &str = "application/cloudevents";

/// How a message carries its event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Attributes in headers, data in the payload.
    Binary,
    /// Attributes and data in the payload, as JSON.
    Structured,
}

/// The mode of a message, by its `content-type` and `content-encoding`.
pub(super) fn mode(media_type: Option<&str>, encoding: Option<&str>) -> Result<Mode, ReadError> {
    let encoding = encoding
        .map(str::trim)
        .filter(|encoding| !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity"));
    if let Some(encoding) = encoding {
        return Err(refused(
            "content-encoding",
            encoding,
            "publish the payload as it is",
        ));
    }
    let Some(media_type) = media_type.filter(|media_type| is_cloudevents(media_type)) else {
        return Ok(Mode::Binary);
    };
    let (essence, charset) = parse(media_type);
    if essence.eq_ignore_ascii_case("application/cloudevents+json") {
        return match charset.is_none_or(is_utf_8) {
            true => Ok(Mode::Structured),
            false => Err(refused("content-type", media_type, "publish it in UTF-8")),
        };
    }
    let cure = match starts_with(essence, "application/cloudevents-batch") {
        true => "publish each event of the batch as a message of its own",
        false => "publish it as application/cloudevents+json, or in binary mode",
    };
    Err(refused("content-type", media_type, cure))
}

/// Whether this is a media type of CloudEvents: then the attributes are in the payload.
pub(super) fn is_cloudevents(media_type: &str) -> bool {
    starts_with(media_type.trim_start(), CLOUDEVENTS)
}

/// Whether a payload of this media type is JSON in UTF-8.
pub(super) fn is_json(media_type: &str) -> bool {
    if media_type == "application/json" {
        return true;
    }
    let (essence, charset) = parse(media_type);
    let is_json = essence.eq_ignore_ascii_case("application/json")
        || essence.eq_ignore_ascii_case("text/json")
        || essence.len() > 5
            && essence
                .get(essence.len() - 5..)
                .is_some_and(|end| end.eq_ignore_ascii_case("+json"));
    is_json && charset.is_none_or(is_utf_8)
}

/// Type and charset, without white space and quotes.
fn parse(media_type: &str) -> (&str, Option<&str>) {
    let mut parts = media_type.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let charset = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        let is_charset = name.trim().eq_ignore_ascii_case("charset");
        is_charset.then(|| value.trim().trim_matches('"'))
    });
    (essence, charset)
}

fn is_utf_8(charset: &str) -> bool {
    ["utf-8", "utf8", "us-ascii"]
        .iter()
        .any(|known| charset.eq_ignore_ascii_case(known))
}

fn starts_with(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn refused(header: &str, value: &str, cure: &str) -> ReadError {
    let value: String = value.chars().take(100).collect();
    ReadError::Malformed(format!(
        "its {header} is {value:?}, which Tidings does not read: {cure}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Envelope, wire::read};

    fn foreign(headers: &[(&str, &str)]) -> Envelope {
        read(
            "user.created",
            headers.iter().copied(),
            "{}".into(),
            String::new,
        )
        .unwrap()
    }

    #[test]
    fn structured_json_is_known_in_any_spelling() {
        for media_type in [
            "application/cloudevents+json",
            "Application/CloudEvents+JSON",
            " application/cloudevents+json ; charset=UTF-8",
            "application/cloudevents+json;charset=\"utf-8\"",
        ] {
            assert_eq!(
                mode(Some(media_type), None),
                Ok(Mode::Structured),
                "{media_type}"
            );
        }
    }

    #[test]
    fn an_unsupported_media_type_is_named_with_its_cure() {
        for media_type in [
            "application/cloudevents",
            "application/cloudevents+avro",
            "application/cloudevents-batch+json",
            "APPLICATION/CLOUDEVENTS+XML; charset=utf-8",
            "application/cloudevents+json; charset=utf-16",
        ] {
            let refused = mode(Some(media_type), None).unwrap_err().to_string();
            assert!(
                refused.contains(media_type) && refused.contains("publish"),
                "{refused}"
            );
        }
        let encoded = mode(Some("application/json"), Some("gzip")).unwrap_err();
        assert!(encoded.to_string().contains("content-encoding is \"gzip\""));
    }

    #[test]
    fn anything_else_is_binary() {
        for media_type in [
            "",
            "application/json",
            "text/xml",
            "application/cloud",
            "\u{e9}",
        ] {
            assert_eq!(mode(Some(media_type), Some("identity")), Ok(Mode::Binary));
        }
        assert_eq!(mode(None, Some("")), Ok(Mode::Binary));
    }

    #[test]
    fn json_is_known_by_its_suffix_and_charset() {
        for media_type in [
            "application/json",
            "Text/JSON",
            "application/vnd.x+json; charset=utf-8",
        ] {
            assert!(is_json(media_type), "{media_type}");
        }
        for media_type in [
            "application/xml",
            "+json",
            "application/json; charset=latin1",
            "",
            "\u{e9}json",
        ] {
            assert!(!is_json(media_type), "{media_type}");
        }
    }

    #[test]
    fn a_payload_that_is_not_json_is_named_and_not_republished() {
        use crate::{EnvelopeError, IntoEnvelope as _};
        let typed =
            |media_type| foreign(&[("ce-type", "user.created.v1"), ("content-type", media_type)]);
        for json in [
            "application/json",
            "",
            "Application/JSON; charset=utf-8",
            "application/x+json",
        ] {
            assert_eq!(typed(json).media_type(), None, "{json}");
        }
        let xml = typed("text/xml");
        assert_eq!(xml.media_type(), Some("text/xml"));
        let refused = xml.into_envelope();
        assert!(matches!(refused, Err(EnvelopeError::MediaType { .. })));
        let said = [
            ("content-type", "text/plain"),
            ("ce-datacontenttype", "application/json"),
        ];
        assert_eq!(foreign(&said).media_type(), None);
    }
}
