//! The decoding of header values, as the CloudEvents bindings define it. Never which header.

use std::borrow::Cow;

use super::percent::decode;

/// Decodes the value of a header: removes surrounding double quotes first, then escapes.
pub(super) fn value_of(text: &str) -> Cow<'_, str> {
    match unquoted(text) {
        Some(text) => Cow::Owned(decode(&text).into_owned()),
        None => decode(text),
    }
}

/// The text between double quotes, when they enclose all of it.
fn unquoted(text: &str) -> Option<String> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    let mut plain = String::with_capacity(inner.len());
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => plain.push(letters.next()?),
            '"' => return None,
            letter => plain.push(letter),
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::read;

    #[test]
    fn text_that_is_only_half_quoted_stays() {
        for text in ["\"", "\"a", "a\"", "\"a\"b\"", r#""a\""#] {
            assert_eq!(value_of(text), text);
        }
        assert_eq!(value_of("\"\""), "");
    }

    #[test]
    fn extensions_are_preserved_and_quotes_are_removed() {
        let headers = [
            ("ce-subject", r#""Ada \"x\" L%21""#),
            ("ce-tenant", "acme"),
            ("CE-Tenant", "other"),
            ("ce-dataschema", "\"https://x/y\""),
            ("ce-traceparent", "00-a-b-01"),
        ];
        let read = read(
            "user.created",
            headers.into_iter(),
            "{}".into(),
            String::new,
        )
        .unwrap();
        assert_eq!(read.key(), Some(r#"Ada "x" L!"#));
        let extensions: Vec<_> = read.extensions().iter().collect();
        let expected = [
            ("dataschema", "https://x/y"),
            ("tenant", "acme"),
            ("traceparent", "00-a-b-01"),
        ];
        assert_eq!(extensions, expected);
        assert_eq!(read.lineage().traceparent.as_deref(), Some("00-a-b-01"));
    }
}
