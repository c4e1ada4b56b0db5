//! Why the program's configuration cannot be used. No error shows a secret.

use std::{io, path::PathBuf};

use tidings::error_text::error_texts;

use super::Source;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The named file cannot be read.
    #[error("the configuration file {} cannot be read", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The text is not TOML.
    #[error("{place}: {reason}")]
    Syntax { place: Source, reason: String },
    /// The file has an unknown key.
    #[error("{place}: there is no setting {key}")]
    UnknownKey {
        place: Source,
        key: String,
        meant: Option<String>,
    },
    /// The environment has an unknown variable.
    #[error("there is no setting for the environment variable {variable}")]
    UnknownVariable {
        variable: String,
        meant: Option<String>,
    },
    /// The variable is not UTF-8.
    #[error("the environment variable {0} is not UTF-8")]
    NotText(String),
    /// The value is invalid.
    #[error("{place}: {key} cannot be used: {reason}")]
    Invalid {
        place: Source,
        key: String,
        reason: String,
    },
    /// Credentials of two kinds are given.
    #[error("NATS credentials are given twice: {} ({}) and {} ({})", .0.0, .0.1, .1.0, .1.1)]
    TwoCredentials(Box<(&'static str, Source)>, Box<(&'static str, Source)>),
    /// The setting needs another one, which is missing.
    #[error("{place}: {key} needs {missing} too")]
    Half {
        place: Source,
        key: &'static str,
        missing: &'static str,
    },
}

impl ConfigError {
    /// Where the value is, when it is in one place.
    pub(crate) fn place(&self) -> Option<&Source> {
        match self {
            Self::Syntax { place, .. }
            | Self::UnknownKey { place, .. }
            | Self::Invalid { place, .. }
            | Self::Half { place, .. } => Some(place),
            Self::TwoCredentials(..)
            | Self::File { .. }
            | Self::UnknownVariable { .. }
            | Self::NotText(_) => None,
        }
    }

    /// The message, with its causes.
    pub(crate) fn text(&self) -> String {
        error_texts(self).join(": ")
    }

    /// The cure, when the message does not contain it.
    pub(crate) fn cure(&self) -> Option<String> {
        match self {
            Self::UnknownKey { meant, .. } | Self::UnknownVariable { meant, .. } => {
                Some(match meant {
                    Some(meant) => format!("{meant}, the nearest known name"),
                    None => "tidings config, which lists all settings".to_owned(),
                })
            }
            Self::TwoCredentials(first, second) => {
                Some(format!("set only one of {} and {}", first.0, second.0))
            }
            Self::File { .. } => Some("another file with --config".to_owned()),
            Self::Syntax { .. } | Self::NotText(_) | Self::Invalid { .. } | Self::Half { .. } => {
                None
            }
        }
    }
}

/// The known word that is most similar to the wanted one, if any is similar.
pub(super) fn nearest<'a>(
    wanted: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    known
        .into_iter()
        .map(|word| (distance(wanted, word), word))
        .min()
        .filter(|(distance, word)| *distance * 3 <= word.len())
        .map(|(_, word)| word.to_owned())
}

/// The number of bytes that differ (Levenshtein distance).
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (place, a) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = place + 1;
        for (column, b) in to.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_has_a_nearest_word_and_nonsense_has_none() {
        let known = ["nats.url", "nats.user", "relay.lease"];
        assert_eq!(nearest("nats.urll", known).as_deref(), Some("nats.url"));
        assert_eq!(
            nearest("relay.leese", known).as_deref(),
            Some("relay.lease")
        );
        assert_eq!(nearest("colour", known), None);
    }
}
