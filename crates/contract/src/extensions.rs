//! CloudEvents extension attributes of an event. Never the attributes that Tidings reads and writes itself.

use std::collections::BTreeMap;

use crate::{HeaderError, headers::is_clean};

/// The longest name that [`Extensions::set`] accepts: the length that CloudEvents recommends.
const MAX_NAME: usize = 20;
/// The attributes that are not extensions.
const ATTRIBUTES: [&str; 12] = [
    "specversion",
    "id",
    "type",
    "source",
    "time",
    "subject",
    "partitionkey",
    "correlationid",
    "causationid",
    "datacontenttype",
    "data",
    "data_base64",
];

/// The CloudEvents attributes of an event that Tidings does not use itself, such as `tenant` or `dataschema`, sorted by
/// name. On the wire each one is a header: `ce-` and its name, with a percent-encoded value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extensions(BTreeMap<String, String>);

impl Extensions {
    /// Sets an extension; an earlier one of that name is replaced.
    ///
    /// # Errors
    /// [`HeaderError::Extension`] when the name is not 1 to 20 characters of `a-z` and `0-9`, or is that of another
    /// attribute; [`HeaderError::Value`] when the value is empty, has control characters or white space at an end.
    pub fn set(
        &mut self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<(), HeaderError> {
        let name = name.into();
        if name.len() > MAX_NAME {
            return Err(HeaderError::Extension(name.chars().take(64).collect()));
        }
        self.keep(name, value.into())
    }

    /// Sets an extension with a name of any length, so that an attribute of another publisher is not lost.
    pub(crate) fn keep(&mut self, name: String, value: String) -> Result<(), HeaderError> {
        let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if name.is_empty() || !name.bytes().all(is_letter) || ATTRIBUTES.contains(&&*name) {
            return Err(HeaderError::Extension(name.chars().take(64).collect()));
        }
        if value.is_empty() || !is_clean(&value) {
            return Err(HeaderError::Value(name));
        }
        self.0.insert(name, value);
        Ok(())
    }

    /// The value of an extension, by its name without `ce-`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All extensions, names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extension_is_replaced_and_found_by_its_name() {
        let mut extensions = Extensions::default();
        for (name, value) in [("tenant", "a"), ("dataschema", "s"), ("tenant", "b")] {
            extensions.set(name, value).unwrap();
        }
        assert_eq!(extensions.get("tenant"), Some("b"));
        let all: Vec<_> = extensions.iter().collect();
        assert_eq!(all, [("dataschema", "s"), ("tenant", "b")]);
    }

    #[test]
    fn reserved_and_malformed_attribute_names_are_refused() {
        for name in [
            "",
            "id",
            "data",
            "datacontenttype",
            "Tenant",
            "a-b",
            "a_b",
            "\u{e9}",
            "abcdefghijklmnopqrstu",
        ] {
            let refused = Extensions::default().set(name, "x");
            assert_eq!(refused, Err(HeaderError::Extension(name.into())));
        }
    }

    #[test]
    fn a_value_that_would_change_on_the_wire_is_refused() {
        for value in ["", " a", "a\r\nb", "\u{0}"] {
            let refused = Extensions::default().set("tenant", value);
            assert_eq!(
                refused,
                Err(HeaderError::Value("tenant".into())),
                "{value:?}"
            );
        }
    }
}
