//! Subject patterns: the names that a stream stores or a reader requests.

use std::{fmt, str::FromStr};

use crate::Name;

/// A NATS subject with wildcards: `*` stands for one word, a final `>` for one or more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern(String);

/// Why a text is not a subject pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a subject: use words joined by dots, `*` for one word, `>` at the end for the rest, such as \"user.>\""
)]
pub struct PatternError(String);

impl Pattern {
    /// Checks a pattern.
    ///
    /// # Errors
    /// [`PatternError`] when a word is empty or has white space, or `>` is not the last word.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let words: Vec<&str> = text.split('.').collect();
        let good = |(at, word): (usize, &&str)| match *word {
            ">" => at + 1 == words.len(),
            "*" => true,
            word => {
                !word.is_empty()
                    && !word.contains(|c: char| {
                        c.is_whitespace() || c.is_control() || c == '*' || c == '>'
                    })
            }
        };
        if words.iter().enumerate().all(good) {
            Ok(Self(text.to_owned()))
        } else {
            Err(PatternError(text.to_owned()))
        }
    }

    /// Whether the pattern covers a name.
    #[must_use]
    pub fn covers(&self, name: &Name) -> bool {
        let mut words = name.as_str().split('.');
        for wanted in self.0.split('.') {
            match (wanted, words.next()) {
                (_, None) => return false,
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (wanted, Some(word)) if wanted == word => {}
                _ => return false,
            }
        }
        words.next().is_none()
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_cover_what_nats_says() {
        let covers = |pattern: &str, name: &str| {
            Pattern::parse(pattern)
                .unwrap()
                .covers(&Name::parse(name).unwrap())
        };
        assert!(covers("user.>", "user.created"));
        assert!(covers("user.>", "user.email.changed"));
        assert!(covers("*.created", "user.created"));
        assert!(covers(">", "user.created"));
        assert!(covers("user.created", "user.created"));
        assert!(!covers("user.*", "user.email.changed"));
        assert!(!covers("user.created.>", "user.created"));
        assert!(!covers("payment.>", "user.created"));
        assert!(!covers("user.created", "user.created.late"));
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for text in ["", ".", "user..x", "user.>.x", "us*er.x", "user x", "user."] {
            assert!(Pattern::parse(text).is_err(), "{text:?}");
        }
    }
}
