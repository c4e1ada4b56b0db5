//! Reads `tidings.toml`: the settings and where they are written. Never what the values mean.

use std::path::Path;

use tidings::StreamSpec;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    ConfigError, Source,
    error::nearest,
    faults::Faults,
    settings::{self, Many, Setting},
    streams,
};

/// The settings of one source.
#[derive(Default)]
pub(super) struct Layer {
    pub(super) values: Vec<(&'static Setting, Given)>,
    pub(super) streams: Option<Vec<(StreamSpec, Source)>>,
}

/// A value as text, and its source.
#[derive(Clone)]
pub(super) struct Given {
    pub(super) text: String,
    pub(super) source: Source,
}

/// A TOML text and its file, if it has one.
pub(super) struct Text<'a> {
    text: &'a str,
    path: Option<&'a Path>,
}

impl<'a> Text<'a> {
    /// The text of a file.
    pub(super) fn of_file(path: &'a Path, text: &'a str) -> Self {
        let path = Some(path);
        Self { text, path }
    }

    /// The value of the environment variable for streams, in the form of the file.
    pub(super) fn of_variable(text: &'a str) -> Self {
        Self { text, path: None }
    }

    /// The source of a part of the text.
    pub(super) fn source<T>(&self, part: &Spanned<T>) -> Source {
        self.source_at(part.span().start)
    }

    fn source_at(&self, offset: usize) -> Source {
        let before = self.text.get(..offset).unwrap_or(self.text);
        match self.path {
            Some(path) => Source::File {
                path: path.to_owned(),
                line: 1 + before.matches('\n').count(),
            },
            None => Source::Variable(settings::STREAM.variable),
        }
    }

    /// Reads all settings of the text. What cannot be read is a fault, and the rest is read all the same.
    pub(super) fn read(&self, faults: &mut Faults) -> Layer {
        let (document, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            // Only the message: the whole error quotes the line, which may contain a secret.
            faults.push(ConfigError::Syntax {
                place: self.source_at(error.span().map_or(0, |span| span.start)),
                reason: error.message().replace('\n', ", "),
            });
        }
        let mut others = Faults::default();
        let mut layer = Layer::default();
        for (name, value) in document.get_ref() {
            if name.get_ref() == settings::STREAM.key {
                layer.streams = Some(streams::read(self, value, &mut others));
                continue;
            }
            match value.get_ref() {
                DeValue::Table(table) => {
                    self.section(name.get_ref(), table, &mut layer, &mut others);
                }
                _ => others.push(self.unknown(name, name.get_ref())),
            }
        }
        faults.extend(others);
        layer
    }

    fn section(&self, section: &str, table: &DeTable<'_>, layer: &mut Layer, faults: &mut Faults) {
        for (name, value) in table {
            let key = format!("{section}.{}", name.get_ref());
            let known = settings::ALL.iter().find(|setting| setting.key == key);
            let Some(setting) = known else {
                faults.push(self.unknown(name, &key));
                continue;
            };
            let text = match (value.get_ref(), setting.many) {
                (DeValue::Array(_), Many::List) => {
                    let texts = self.texts(setting.key, value);
                    texts.map(|texts| texts.join(","))
                }
                _ => self.text(setting.key, value),
            };
            if let Some(text) = faults.keep(text) {
                let source = self.source(value);
                layer.values.push((setting, Given { text, source }));
            }
        }
    }

    /// A string, whole number or boolean as text.
    pub(super) fn text(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<String, ConfigError> {
        match value.get_ref() {
            DeValue::String(text) => Ok(text.to_string()),
            DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
            DeValue::Boolean(value) => Ok(value.to_string()),
            _ => Err(self.invalid(key, value, "write a string in quotes, or a whole number")),
        }
    }

    /// A list of texts.
    pub(super) fn texts(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<Vec<String>, ConfigError> {
        match value.get_ref() {
            DeValue::Array(list) => list.iter().map(|item| self.text(key, item)).collect(),
            _ => Err(self.invalid(
                key,
                value,
                "write a list of strings, such as [\"a\", \"b\"]",
            )),
        }
    }

    pub(super) fn invalid<T>(
        &self,
        key: &str,
        value: &Spanned<T>,
        reason: impl ToString,
    ) -> ConfigError {
        ConfigError::Invalid {
            place: self.source(value),
            key: key.to_owned(),
            reason: reason.to_string(),
        }
    }

    /// The error for an unknown key, with its section.
    pub(super) fn unknown<T>(&self, name: &Spanned<T>, key: &str) -> ConfigError {
        let known = settings::ALL.iter().map(|setting| setting.key);
        ConfigError::UnknownKey {
            place: self.source(name),
            key: key.to_owned(),
            meant: nearest(key, known),
        }
    }
}
