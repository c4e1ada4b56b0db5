//! The effective configuration of the program: defaults, then `tidings.toml`, then the environment, then flags; the
//! later source wins. Apart from the test servers, only this module reads the environment.
//!
//! Every value keeps its source, for `tidings config` and for errors. An unknown setting is an error in every source,
//! because a typo must not become a default.

pub(crate) mod duration;
mod error;
mod file;
mod secret;
mod settings;
mod streams;
mod values;

use std::{
    collections::BTreeMap,
    env, fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tidings::{NatsOptions, StreamSpec};

pub(crate) use error::ConfigError;
use file::{Given, Layer, Text};
pub(crate) use secret::without_passwords;
use settings::Setting;
pub(crate) use settings::{DATABASE_URL, LOG_FILTER, NATS_URL, SCHEMA};
use values::Values;

/// The file that is read when no other one is named.
const DEFAULT_FILE: &str = "tidings.toml";

/// The settings of the program.
pub(crate) struct Config {
    /// The connection to NATS.
    pub(crate) nats: NatsOptions,
    /// The database that holds the outbox.
    pub(crate) database: DatabaseUrl,
    /// The outbox's schema, or the prefix of its tables.
    pub(crate) schema: String,
    /// The source attribute of published events.
    pub(crate) source: String,
    /// The settings of the relay.
    pub(crate) relay: RelaySettings,
    /// The settings of the log.
    pub(crate) log: Log,
    /// The configured streams, without the internal ones.
    pub(crate) streams: Vec<StreamSpec>,
    /// Every value without its secrets, for display.
    pub(crate) effective: Vec<Effective>,
}

/// The database and its address.
pub(crate) enum DatabaseUrl {
    /// A URL, which may contain a password.
    Postgres(String),
    /// The path of a file.
    Sqlite(PathBuf),
}

/// The settings of the relay; see [`tidings::Relay`].
pub(crate) struct RelaySettings {
    pub(crate) lease: Duration,
    pub(crate) batch: usize,
    pub(crate) retention: Duration,
    pub(crate) stall_timeout: Duration,
}

/// The settings of the log.
pub(crate) struct Log {
    /// A filter of `tracing_subscriber`; `None` leaves it to the command.
    pub(crate) filter: Option<String>,
    pub(crate) format: LogFormat,
}

/// The format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// Text for people.
    Pretty,
    /// One JSON object per line.
    Json,
}

/// A value in effect, without its secrets.
pub(crate) struct Effective {
    pub(crate) key: String,
    pub(crate) value: Option<String>,
    pub(crate) source: Source,
}

/// The source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Default,
    File { path: PathBuf, line: usize },
    Variable(&'static str),
    Flag(&'static str),
}

/// The settings of the command line.
#[derive(Default)]
pub(crate) struct Flags {
    /// The configuration file.
    pub(crate) file: Option<PathBuf>,
    /// Settings, each with its flag.
    pub(crate) values: Vec<(&'static Setting, &'static str, String)>,
}

impl Config {
    /// Reads the file, the environment and the flags.
    ///
    /// # Errors
    /// [`ConfigError`] at the first value that cannot be used.
    pub(crate) fn load(flags: Flags) -> Result<Self, ConfigError> {
        let environment = environment()?;
        let named = flags.file.clone().or_else(|| {
            let path = environment.get(settings::CONFIG_VARIABLE)?;
            Some(PathBuf::from(path))
        });
        let file = read_file(named)?;
        let file = file.as_ref().map(|(path, text)| (&**path, &**text));
        Self::of(file, &environment, flags)
    }

    /// The configuration from flags alone, without file and environment.
    ///
    /// # Errors
    /// [`ConfigError`] at the first flag that cannot be used.
    pub(crate) fn of_flags(flags: Flags) -> Result<Self, ConfigError> {
        Self::of(None, &BTreeMap::new(), flags)
    }

    /// Whether a setting has a value other than by default.
    pub(crate) fn is_given(&self, key: &str) -> bool {
        let is_default = |value: &Effective| value.key == key && value.source == Source::Default;
        !self.effective.iter().any(is_default)
    }

    /// The configuration from these sources.
    fn of(
        file: Option<(&Path, &str)>,
        environment: &BTreeMap<String, String>,
        flags: Flags,
    ) -> Result<Self, ConfigError> {
        let mut values = Values::defaults()?;
        if let Some((path, text)) = file {
            values.put(Text::of_file(path, text).read()?);
        }
        values.put(of_environment(environment)?);
        values.put(of_flags(flags));
        values.config()
    }
}

/// The variables that begin with `TIDINGS_`. An empty one counts as not set.
fn environment() -> Result<BTreeMap<String, String>, ConfigError> {
    let mut found = BTreeMap::new();
    for (name, value) in env::vars_os() {
        let Ok(name) = name.into_string() else {
            continue;
        };
        if !name.starts_with("TIDINGS_") || value.is_empty() {
            continue;
        }
        let value = value.into_string();
        let value = value.map_err(|_| ConfigError::NotText(name.clone()))?;
        found.insert(name, value);
    }
    Ok(found)
}

/// Reads the named file, which must exist; else the default file, if it exists.
fn read_file(named: Option<PathBuf>) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let is_default = named.is_none();
    let path = named.unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some((path, text))),
        Err(error) if is_default && error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ConfigError::File { path, source }),
    }
}

fn of_environment(environment: &BTreeMap<String, String>) -> Result<Layer, ConfigError> {
    let mut layer = Layer::default();
    for (name, value) in environment {
        if settings::FOREIGN_VARIABLES.contains(&&**name) {
            continue;
        }
        if name == settings::STREAM.variable {
            layer.streams = Some(streams::of_variable(value)?);
            continue;
        }
        let setting = settings::ALL
            .iter()
            .find(|setting| setting.variable == name);
        let setting = *setting.ok_or_else(|| unknown_variable(name))?;
        let given = Given {
            text: value.clone(),
            source: Source::Variable(setting.variable),
        };
        layer.values.push((setting, given));
    }
    Ok(layer)
}

fn unknown_variable(name: &str) -> ConfigError {
    let known = settings::ALL.iter().map(|setting| setting.variable);
    ConfigError::UnknownVariable {
        variable: name.to_owned(),
        meant: error::nearest(name, known),
    }
}

fn of_flags(flags: Flags) -> Layer {
    let values = flags.values.into_iter().map(|(setting, flag, text)| {
        let source = Source::Flag(flag);
        (setting, Given { text, source })
    });
    Layer {
        values: values.collect(),
        streams: None,
    }
}

impl DatabaseUrl {
    fn parse(url: &str) -> Result<Self, String> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return match secret::unknown_parameter(url) {
                Some(name) => {
                    let known = secret::parameters().join(", ");
                    Err(format!(
                        "its parameter {name:?} is not known: use one of {known}"
                    ))
                }
                None => Ok(Self::Postgres(url.to_owned())),
            };
        }
        let path = url.strip_prefix("sqlite:").ok_or_else(|| {
            let shown = without_passwords(url);
            format!("{shown:?} is neither sqlite:PATH nor postgres://USER@HOST/DATABASE")
        })?;
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() || path.contains('?') || path.contains(":memory:") {
            return Err("sqlite: needs the path of a file, without parameters".to_owned());
        }
        Ok(Self::Sqlite(PathBuf::from(path)))
    }
}

/// The URL without its password.
impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(url) => f.write_str(&without_passwords(url)),
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

#[cfg(test)]
mod tests;
