//! The name of an event, which is also its NATS subject. Never a pattern of names.

use std::{borrow::Cow, fmt, str::FromStr};

/// A checked event name such as `user.created`.
///
/// It has two or more words joined by dots, and at most 200 bytes. Each word is a lower-case ASCII letter followed by
/// lower-case letters, digits, `_` or `-`. The first word is neither `tidings` nor `dead-letter`, which are reserved.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Cow<'static, str>);

/// Why a text is not an event name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The text breaks the grammar.
    #[error(
        "{0:?} is not an event name: use two or more lower-case words joined by dots, such as \"user.created\""
    )]
    Malformed(String),
    /// The text is over [`Name::MAX_BYTES`].
    #[error("an event name of {0} bytes is too long: use at most {max}", max = Name::MAX_BYTES)]
    TooLong(usize),
    /// The first word is reserved.
    #[error("{0:?} is reserved: an event name begins with neither \"tidings\" nor \"dead-letter\"")]
    Reserved(String),
}

impl Name {
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 200;

    /// Checks a name.
    ///
    /// # Errors
    /// [`NameError`], which names the broken rule.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check(text)?;
        Ok(Self(Cow::Owned(text.to_owned())))
    }

    /// Checks a name that is a constant of the program, without copying it.
    ///
    /// # Errors
    /// [`NameError`], which names the broken rule.
    pub fn from_static(text: &'static str) -> Result<Self, NameError> {
        check(text)?;
        Ok(Self(Cow::Borrowed(text)))
    }

    /// The name as text, which is also the NATS subject.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(text: &str) -> Result<(), NameError> {
    if text.len() > Name::MAX_BYTES {
        return Err(NameError::TooLong(text.len()));
    }
    let mut words = text.split('.');
    if words.clone().count() < 2 || !words.clone().all(is_word) {
        return Err(NameError::Malformed(text.to_owned()));
    }
    match words.next() {
        Some("tidings" | "dead-letter") => Err(NameError::Reserved(text.to_owned())),
        _ => Ok(()),
    }
}

fn is_word(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_lowercase())
        && word
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_joined_by_dots_are_names() {
        for text in ["user.created", "user.email_changed", "a.b.c-d2"] {
            assert_eq!(
                Name::parse(text).map(|n| n.to_string()),
                Ok(text.to_owned())
            );
        }
    }

    #[test]
    fn everything_else_is_refused_with_the_rule() {
        for text in [
            "",
            "user",
            "User.created",
            "user..created",
            ".user",
            "user.",
            "user.*",
            "user.>",
            "user created.x",
            "1.user",
            "user.\u{e9}t\u{e9}",
            "user.cre\nated",
            "$js.x",
        ] {
            assert!(
                matches!(Name::parse(text), Err(NameError::Malformed(_))),
                "{text:?}"
            );
        }
        assert!(matches!(
            Name::parse("tidings.wake"),
            Err(NameError::Reserved(_))
        ));
        assert!(matches!(
            Name::parse("dead-letter.x"),
            Err(NameError::Reserved(_))
        ));
        let long = format!("user.{}", "x".repeat(Name::MAX_BYTES));
        assert_eq!(Name::parse(&long), Err(NameError::TooLong(long.len())));
    }

    proptest! {
        #[test]
        fn a_name_is_always_a_plain_subject(text in "\\PC{0,40}") {
            if let Ok(name) = Name::parse(&text) {
                prop_assert!(!name.as_str().contains(|c: char| c.is_whitespace() || c == '*' || c == '>'));
                prop_assert!(name.as_str().split('.').all(|word| !word.is_empty()));
                prop_assert_eq!(name.as_str(), text);
            }
        }

        #[test]
        fn every_text_of_the_grammar_is_a_name(text in "[a-c][a-z0-9_-]{0,8}(\\.[a-z][a-z0-9_-]{0,8}){1,4}") {
            prop_assert!(Name::parse(&text).is_ok());
        }
    }
}
