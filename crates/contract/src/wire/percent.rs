//! Percent-encoding of header values as CloudEvents requires it: section 3.1.3.2 of its HTTP and NATS bindings. Never
//! the encoding of URLs.

use std::{borrow::Cow, fmt::Write as _};

/// Encodes every character that is not visible ASCII, and `"` and `%`.
pub(super) fn encode(text: &str) -> Cow<'_, str> {
    if text.bytes().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        if is_plain(byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    Cow::Owned(encoded)
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'"' && byte != b'%'
}

/// Decodes `%41`. Text that is not an escape stays as it is, and so does the whole text when it would not decode to
/// UTF-8.
pub(super) fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if let Some((byte, tail)) = escape(rest) {
            bytes.push(byte);
            rest = tail;
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(text), Cow::Owned)
}

/// The byte that the text's first three characters encode, and the rest of the text.
fn escape(text: &[u8]) -> Option<(u8, &[u8])> {
    let [b'%', high, low, tail @ ..] = text else {
        return None;
    };
    Some((hex(*high)? * 16 + hex(*low)?, tail))
}

fn hex(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_the_specification_is_met() {
        let text = "Euro \u{20ac} \u{1f600}";
        assert_eq!(encode(text), "Euro%20%E2%82%AC%20%F0%9F%98%80");
        assert_eq!(decode("Euro%20%e2%82%ac%20%F0%9f%98%80"), text);
    }

    #[test]
    fn needless_escapes_are_decoded_once() {
        assert_eq!(decode("%75ser%2541"), "user%41");
    }

    #[test]
    fn text_that_is_not_an_escape_stays() {
        for text in ["100%", "%", "%4", "%zz", "%+1", "%\u{e9}", "%%"] {
            assert_eq!(decode(text), text);
        }
    }

    #[test]
    fn bytes_that_are_not_utf_8_stay() {
        for text in ["%C0%A0", "%FF", "a%20%E2%82"] {
            assert_eq!(decode(text), text);
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text in any::<String>()) {
            let encoded = encode(&text);
            prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(decode(&encoded), &*text);
        }

        #[test]
        fn any_text_is_decoded_without_a_panic(text in "[%0-9a-fA-F\u{e9}]{0,24}") {
            let decoded = decode(&text);
            prop_assert!(decoded.len() <= text.len());
        }
    }
}
