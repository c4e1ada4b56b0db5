//! The effective configuration of the program: defaults, then `tidings.toml`, then the environment, then flags; the
//! later source wins. Apart from the test servers, only this module reads the environment.
//!
//! Every value keeps its source, for `tidings config` and for errors. An unknown setting is an error in every source,
//! because a typo must not become a default.

pub(crate) mod duration;
mod error;
mod faults;
mod file;
mod nats;
mod origin;
mod secret;
mod settings;
mod streams;
mod systemd;
mod traces;
mod values;

use std::{
    collections::BTreeMap,
    env, fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use tidings::{NatsOptions, StreamSpec, judge::IssueKind};

pub(crate) use error::ConfigError;
pub(crate) use faults::Faults;
use file::{Given, Layer, Text};
pub(crate) use origin::{Change, Identity, Origin};
pub(crate) use secret::without_passwords;
use settings::Setting;
pub(crate) use settings::{DATABASE_URL, LOG_FILTER, NATS_URL, SCHEMA};
pub(crate) use systemd::SystemdSettings;
pub(crate) use traces::{Endpoint, TracesSettings};
use values::Values;

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
    /// The health endpoints.
    pub(crate) ops: OpsSettings,
    /// Where the relay sends its spans.
    pub(crate) traces: TracesSettings,
    /// The checks of the preflight that are silenced.
    pub(crate) allow: Vec<IssueKind>,
    /// The settings of the log.
    pub(crate) log: Log,
    /// The configured streams, without the internal ones.
    pub(crate) streams: Vec<StreamSpec>,
    /// The settings of the program's threads.
    pub(crate) runtime: Runtime,
    /// Every value without its secrets, for display.
    pub(crate) effective: Vec<Effective>,
    /// How it was read.
    origin: Origin,
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

/// The settings of the health endpoints; see [`tidings::ops::Ops`].
pub(crate) struct OpsSettings {
    /// The address; without one there are no endpoints.
    pub(crate) listen: Option<String>,
    pub(crate) is_public: bool,
    pub(crate) stuck_after: Duration,
}

/// The settings of the program's threads; `None` leaves a number to the runtime.
pub(crate) struct Runtime {
    pub(crate) worker_threads: Option<usize>,
    pub(crate) blocking_threads: Option<usize>,
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
    /// The value with its secrets, to find out whether it has changed.
    text: Option<String>,
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
#[derive(Clone, Default)]
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
        let mut faults = Faults::default();
        let (values, origin) = gather(flags, &mut faults);
        let config = values.config(origin, &mut faults);
        complete(config, faults)
    }

    /// Every fault of the file, the environment and the flags, and the file that was read. Also checks that the files
    /// that they name can be read.
    pub(crate) fn check(flags: Flags) -> (Option<PathBuf>, Faults) {
        let mut faults = Faults::default();
        let (values, origin) = gather(flags, &mut faults);
        let file = origin.file_read().map(Path::to_owned);
        values.files(&mut faults);
        values.config(origin, &mut faults);
        (file, faults)
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
        let mut faults = Faults::default();
        let values = values_of(file, environment, flags.clone(), &mut faults);
        let config = values.config(Origin::of(flags), &mut faults);
        complete(config, faults)
    }
}

/// What systemd wants to be told, if the program is a service of systemd with `Type=notify`.
pub(crate) fn systemd() -> Option<SystemdSettings> {
    systemd::of(|name| env::var_os(name), std::process::id())
}

/// The configuration, or its first fault.
fn complete(config: Option<Config>, faults: Faults) -> Result<Config, ConfigError> {
    match (faults.first(), config) {
        (None, Some(config)) => Ok(config),
        (Some(fault), _) => Err(fault),
        (None, None) => unreachable!("what cannot be read is a fault"),
    }
}

/// The values of the file, the environment and the flags.
fn gather(flags: Flags, faults: &mut Faults) -> (Values, Origin) {
    let environment = environment(faults);
    let named = flags.file.clone().or_else(|| {
        let path = environment.get(settings::CONFIG_VARIABLE)?;
        Some(PathBuf::from(path))
    });
    let mut origin = Origin::of(flags.clone());
    let file = faults.keep(origin.read(named)).flatten();
    let path = origin.path().to_owned();
    let file = file.as_deref().map(|text| (&*path, text));
    (values_of(file, &environment, flags, faults), origin)
}

fn values_of(
    file: Option<(&Path, &str)>,
    environment: &BTreeMap<String, String>,
    flags: Flags,
    faults: &mut Faults,
) -> Values {
    let mut values = Values::defaults();
    if let Some((path, text)) = file {
        values.put(Text::of_file(path, text).read(faults));
    }
    values.put(of_environment(environment, faults));
    values.put(of_flags(flags));
    values
}

/// The variables that begin with `TIDINGS_`, and those of others that a setting takes. An empty one counts as not set.
fn environment(faults: &mut Faults) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (name, value) in env::vars_os() {
        let Ok(name) = name.into_string() else {
            continue;
        };
        let is_read = name.starts_with("TIDINGS_") || settings::is_foreign(&name);
        if !is_read || value.is_empty() {
            continue;
        }
        let value = value.into_string();
        let value = value.map_err(|_| ConfigError::NotText(name.clone()));
        found.extend(faults.keep(value).map(|value| (name, value)));
    }
    found
}

fn of_environment(environment: &BTreeMap<String, String>, faults: &mut Faults) -> Layer {
    let mut layer = Layer::default();
    for (name, value) in environment {
        if settings::FOREIGN_VARIABLES.contains(&&**name) {
            continue;
        }
        if name == settings::STREAM.variable {
            layer.streams = Some(streams::of_variable(value, faults));
            continue;
        }
        let Some((setting, variable)) = settings::of_variable(name) else {
            faults.push(unknown_variable(name));
            continue;
        };
        if variable != setting.variable && environment.contains_key(setting.variable) {
            continue;
        }
        let given = Given {
            text: value.clone(),
            source: Source::Variable(variable),
        };
        layer.values.push((setting, given));
    }
    layer
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
