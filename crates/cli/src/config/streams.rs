//! The streams of the configuration: `[[stream]]` in the file, a TOML list in `TIDINGS_STREAM`.

use std::collections::BTreeMap;

use tidings::{StreamSpec, event::Pattern};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    ConfigError, Source, duration,
    error::nearest,
    faults::Faults,
    file::Text,
    settings::{STREAM, STREAM_KEYS},
    values::copies,
};

/// The streams of the environment variable.
pub(super) fn of_variable(value: &str, faults: &mut Faults) -> Vec<(StreamSpec, Source)> {
    let text = format!("stream = {value}");
    let layer = Text::of_variable(&text).read(faults);
    layer.streams.unwrap_or_default()
}

/// Reads a list of streams; those that cannot be used are faults.
pub(super) fn read(
    text: &Text<'_>,
    value: &Spanned<DeValue<'_>>,
    faults: &mut Faults,
) -> Vec<(StreamSpec, Source)> {
    let mut streams: Vec<(StreamSpec, Source)> = Vec::new();
    let DeValue::Array(list) = value.get_ref() else {
        let reason = "each stream begins with a line [[stream]]";
        faults.push(text.invalid(STREAM.key, value, reason));
        return streams;
    };
    for item in list {
        let DeValue::Table(table) = item.get_ref() else {
            faults.push(text.invalid(STREAM.key, item, "a stream is a table"));
            continue;
        };
        let Some(spec) = faults.keep(Table { text, item, table }.spec()) else {
            continue;
        };
        if streams.iter().any(|(other, _)| other.name == spec.name) {
            let reason = format!("there are two streams {}", spec.name);
            faults.push(text.invalid("stream.name", item, reason));
            continue;
        }
        streams.push((spec, text.source(item)));
    }
    streams
}

/// One stream as it is written in the text.
struct Table<'a> {
    text: &'a Text<'a>,
    item: &'a Spanned<DeValue<'a>>,
    table: &'a DeTable<'a>,
}

impl Table<'_> {
    fn spec(&self) -> Result<StreamSpec, ConfigError> {
        let mut given = self.given()?;
        let mut take = |key| given.remove(key);
        let (name, subjects) = (take("name"), take("subjects"));
        let mut spec = match (name, subjects) {
            (Some(name), Some(subjects)) => {
                StreamSpec::new(self.one("name", name)?, self.subjects(subjects)?)
                    .map_err(|error| self.text.invalid("stream.name", name, error))?
            }
            (name, _) => {
                let name = name.map(|name| self.one("name", name)).transpose()?;
                let mut internal = StreamSpec::internal().into_iter();
                let found = internal.find(|spec| name.as_deref() == Some(&*spec.name));
                found.ok_or_else(|| {
                    let reason = "name and subjects are needed";
                    self.text.invalid(STREAM.key, self.item, reason)
                })?
            }
        };
        if let Some(value) = take("replicas") {
            spec.replicas = self.replicas(value)?;
        }
        if let Some(value) = take("max_age") {
            spec.max_age = Some(self.parsed("max_age", value, duration::parse)?);
        }
        if let Some(value) = take("max_bytes") {
            spec.max_bytes = Some(self.parsed("max_bytes", value, |text| text.parse::<u64>())?);
        }
        if let Some(value) = take("duplicate_window") {
            spec.duplicate_window = self.parsed("duplicate_window", value, duration::parse)?;
        }
        match spec.objections().into_iter().next() {
            Some(objection) => {
                Err(self
                    .text
                    .invalid(&format!("stream {}", spec.name), self.item, objection))
            }
            None => Ok(spec),
        }
    }

    /// The given keys; an unknown one is an error.
    fn given(&self) -> Result<BTreeMap<&str, &Spanned<DeValue<'_>>>, ConfigError> {
        let known = |name: &Spanned<_>| {
            let name: &std::borrow::Cow<'_, str> = name.get_ref();
            STREAM_KEYS.into_iter().find(|known| known == name)
        };
        let mut given = BTreeMap::new();
        for (name, value) in self.table {
            let key = known(name).ok_or_else(|| ConfigError::UnknownKey {
                place: self.text.source(name),
                key: format!("stream.{}", name.get_ref()),
                meant: nearest(name.get_ref(), STREAM_KEYS),
            })?;
            given.insert(key, value);
        }
        Ok(given)
    }

    fn one(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<String, ConfigError> {
        self.text.text(&format!("stream.{key}"), value)
    }

    fn parsed<T, E: ToString>(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, ConfigError> {
        let text = self.one(key, value)?;
        parse(&text).map_err(|error| {
            let key = format!("stream.{key}");
            self.text.invalid(&key, value, error.to_string())
        })
    }

    fn subjects(&self, value: &Spanned<DeValue<'_>>) -> Result<Vec<Pattern>, ConfigError> {
        let subjects = self.text.texts("stream.subjects", value)?;
        if subjects.is_empty() {
            let reason = "a stream needs a subject";
            return Err(self.text.invalid("stream.subjects", value, reason));
        }
        let parse = |subject: &String| {
            Pattern::parse(subject)
                .map_err(|error| self.text.invalid("stream.subjects", value, error))
        };
        subjects.iter().map(parse).collect()
    }

    fn replicas(&self, value: &Spanned<DeValue<'_>>) -> Result<u8, ConfigError> {
        self.parsed("replicas", value, copies)
    }
}
