//! The user's own headers of an event. Never the headers that Tidings or NATS write.

use crate::Lineage;

/// Headers that the user of an event sets. A name occurs once; names are compared without case.
///
/// Values are sent unchanged, in UTF-8: encode a value that another client may not be able to read. The sizes are
/// checked against the server's limit when the event is published.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

/// Why a header was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The name has characters that NATS cannot carry.
    #[error("{0:?} is not a header name: use visible ASCII characters without a colon")]
    Name(String),
    /// The name belongs to Tidings, CloudEvents or NATS.
    #[error(
        "the header {0:?} is reserved: names that begin with \"ce-\", \"nats-\" or \"tidings-\", \"content-type\", \"traceparent\" and \"tracestate\" are set by the system"
    )]
    Reserved(String),
    /// The value would change on its way.
    #[error(
        "the value of header {0:?} has a control character, or white space at an end: encode it first"
    )]
    Value(String),
    /// The name is not that of a CloudEvents extension.
    #[error(
        "{0:?} is not the name of an extension: use 1 to 20 characters of a-z and 0-9, and not the name of another attribute"
    )]
    Extension(String),
    /// A text of the event's [`Lineage`] or its source cannot be carried by this header.
    #[error(
        "the value of {0} is refused: use 1 to {max} bytes without control characters or white space at an end",
        max = Lineage::MAX_BYTES
    )]
    Attribute(String),
}

impl Headers {
    /// Sets a header, or replaces the one of that name.
    ///
    /// # Errors
    /// [`HeaderError::Name`] when the name is malformed, [`HeaderError::Reserved`] when it is reserved,
    /// [`HeaderError::Value`] when the value has control characters or white space at an end.
    pub fn set(
        &mut self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<(), HeaderError> {
        let (name, value) = checked(name.into(), value.into())?;
        let mut known = self.0.iter_mut();
        match known.find(|(known, _)| known.eq_ignore_ascii_case(&name)) {
            Some(slot) => slot.1 = value,
            None => self.0.push((name, value)),
        }
        Ok(())
    }

    /// Builds headers from many at once, sorted by name. A foreign message or row may have any number of them, so
    /// duplicates are found by sorting and not by a search for each. When a name occurs again in another case, the
    /// first spelling is kept; `choose` picks the value out of the previous and the next one.
    pub(crate) fn sorted(
        mut all: Vec<(String, String)>,
        choose: impl Fn(String, String) -> String,
    ) -> Self {
        all.sort_by(|(a, _), (b, _)| folded(a).cmp(folded(b)).then_with(|| a.cmp(b)));
        all.dedup_by(|(name, next), (known, before)| {
            let is_known = known.eq_ignore_ascii_case(name);
            if is_known {
                *before = choose(std::mem::take(before), std::mem::take(next));
            }
            is_known
        });
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self(all)
    }

    /// The value of a header; the name is compared without case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// All headers, names and values: in the order in which they were set, or sorted by name when the event was read
    /// from NATS or from the outbox, which keep no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A name in lower case, for comparison.
fn folded(name: &str) -> impl Iterator<Item = u8> {
    name.bytes().map(|byte| byte.to_ascii_lowercase())
}

/// Checks that a header can be carried and that its name is not reserved.
pub(crate) fn checked(name: String, value: String) -> Result<(String, String), HeaderError> {
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic() && b != b':') {
        return Err(HeaderError::Name(name));
    }
    if is_reserved(&name) {
        return Err(HeaderError::Reserved(name));
    }
    if !is_clean(&value) {
        return Err(HeaderError::Value(name));
    }
    Ok((name, value))
}

/// Whether a text survives as the value of a header: no control characters, no white space at its ends.
pub(crate) fn is_clean(value: &str) -> bool {
    !value.contains(char::is_control) && value.trim() == value
}

/// Whether a header's name is reserved.
pub(crate) fn is_reserved(name: &str) -> bool {
    let begins = |prefix: &str| {
        name.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    ["ce-", "nats-", "tidings-"].into_iter().any(begins)
        || ["content-type", "traceparent", "tracestate"]
            .into_iter()
            .any(|known| name.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_is_found_without_case_and_replaced() {
        let mut headers = Headers::default();
        headers.set("Tenant", "a").unwrap();
        headers.set("tenant", "b").unwrap();
        assert_eq!(headers.get("TENANT"), Some("b"));
        assert_eq!(headers.iter().count(), 1);
    }

    #[test]
    fn a_reserved_name_is_refused_in_any_case() {
        for name in [
            "ce-id",
            "CE-",
            "Nats-Msg-Id",
            "TIDINGS-x",
            "Content-Type",
            "traceparent",
            "TraceState",
        ] {
            let refused = Headers::default().set(name, "x");
            assert_eq!(refused, Err(HeaderError::Reserved(name.into())));
        }
    }

    #[test]
    fn a_malformed_name_is_refused() {
        for name in ["", "a b", "a:b", "a\r\nb", "a\u{0}", "\u{e9}"] {
            let refused = Headers::default().set(name, "x");
            assert_eq!(refused, Err(HeaderError::Name(name.into())));
        }
    }

    #[test]
    fn a_value_that_would_change_on_the_wire_is_refused() {
        for value in [
            "a\r\nX: y",
            "a\rb",
            "\u{0}",
            "\u{7f}",
            "\u{85}",
            " a",
            "a\t",
            "a\u{a0}",
        ] {
            let refused = Headers::default().set("x", value);
            assert_eq!(refused, Err(HeaderError::Value("x".into())), "{value:?}");
        }
    }

    #[test]
    fn a_name_that_only_looks_like_the_systems_is_the_users() {
        let mut headers = Headers::default();
        for name in ["ce", "cee-x", "x-ce-id", "natsy", "content-type-x"] {
            assert_eq!(headers.set(name, ""), Ok(()), "{name}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_header_is_one_line(name in "\\PC{0,12}", value in any::<String>()) {
            let mut headers = Headers::default();
            if headers.set(name, value).is_ok() {
                let is_line = |text: &str| !text.contains(['\r', '\n']) && text.trim() == text;
                prop_assert!(headers.iter().all(|(n, v)| is_line(n) && !n.contains(':') && is_line(v)));
            }
        }
    }

    proptest! {
        #[test]
        fn many_at_once_are_as_one_by_one(all in proptest::collection::vec(("[aAbB]{1,2}", "[xyz]"), 0..12)) {
            let mut sorted = all.clone();
            sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
            let (mut last, mut first) = (Headers::default(), Headers::default());
            for (name, value) in sorted {
                if first.get(&name).is_none() {
                    first.set(name.clone(), value.clone()).unwrap();
                }
                last.set(name, value).unwrap();
            }
            prop_assert_eq!(Headers::sorted(all.clone(), |first, _| first), first);
            // A JSON object has no name twice.
            let mut names = all.clone();
            names.sort();
            names.dedup_by(|(a, _), (b, _)| a == b);
            if names.len() == all.len() {
                prop_assert_eq!(Headers::sorted(all, |_, last| last), last);
            }
        }
    }
}
