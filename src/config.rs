//! The effective configuration of the program: defaults, then `tidings.toml`, then the environment,
//! then flags; the later wins. The only reader of the environment besides the test servers.
//!
//! Every value keeps its source, for `tidings config` and for errors. A setting that nobody knows is an
//! error everywhere, because a typo must not become a default.

pub(crate) mod duration;
mod error;
mod file;
mod secret;
mod settings;
mod streams;

use std::{
    collections::BTreeMap,
    env, fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tidings::{Auth, NatsOptions, StreamSpec, Tls};
use tracing_subscriber::EnvFilter;

pub(crate) use error::ConfigError;
use file::{Given, Layer, Text};
pub(crate) use secret::without_passwords;
use settings::Setting;
pub(crate) use settings::{DATABASE_URL, LOG_FILTER, NATS_URL, SCHEMA};

/// The file that is read when none is named.
const DEFAULT_FILE: &str = "tidings.toml";

/// What the program works with.
pub(crate) struct Config {
    /// How to reach NATS.
    pub(crate) nats: NatsOptions,
    /// Which database holds the outbox.
    pub(crate) database: DatabaseUrl,
    /// The outbox's schema, or the prefix of its tables.
    pub(crate) schema: String,
    /// The service that events come from.
    pub(crate) source: String,
    /// How the relay works.
    pub(crate) relay: RelaySettings,
    /// How long handlers may take to finish after the signal.
    pub(crate) drain: Duration,
    /// What is logged.
    pub(crate) log: Log,
    /// The streams that there should be, besides the dead letters.
    pub(crate) streams: Vec<StreamSpec>,
    /// Every value as it may be shown.
    pub(crate) effective: Vec<Effective>,
}

/// Which database, and where.
pub(crate) enum DatabaseUrl {
    /// A URL, which may hold a password.
    Postgres(String),
    /// A file.
    Sqlite(PathBuf),
}

/// How the relay works; see [`tidings::Relay`].
pub(crate) struct RelaySettings {
    pub(crate) lease: Duration,
    pub(crate) batch: usize,
    pub(crate) retention: Duration,
    pub(crate) unbound_grace: Duration,
}

/// What is logged, and how.
pub(crate) struct Log {
    /// As `tracing_subscriber` has it; `None` leaves it to the command.
    pub(crate) filter: Option<String>,
    pub(crate) format: LogFormat,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// A value that is in effect, without its secrets.
pub(crate) struct Effective {
    pub(crate) key: String,
    pub(crate) value: Option<String>,
    pub(crate) source: Source,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Default,
    File { path: PathBuf, line: usize },
    Variable(&'static str),
    Flag(&'static str),
}

/// What the command line says.
#[derive(Default)]
pub(crate) struct Flags {
    /// The configuration file.
    pub(crate) file: Option<PathBuf>,
    /// Settings, each with the flag that gave it.
    pub(crate) values: Vec<(&'static Setting, &'static str, String)>,
}

impl Config {
    /// Reads the file, the environment and the flags.
    ///
    /// # Errors
    /// [`ConfigError`] at the first thing that cannot be used.
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

    /// The configuration that these sources give.
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

/// The variables that begin with `TIDINGS_`; an empty one counts as not set.
fn environment() -> Result<BTreeMap<String, String>, ConfigError> {
    let mut found = BTreeMap::new();
    for (name, value) in env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        if !name.starts_with("TIDINGS_") || value.is_empty() {
            continue;
        }
        let value = value.into_string();
        let value = value.map_err(|_| ConfigError::NotText(name.clone()))?;
        found.insert(name, value);
    }
    Ok(found)
}

/// The file that was named, which must be there; else the default one, if it is.
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
        let setting = settings::ALL.iter().find(|setting| setting.variable == name);
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

/// The values in effect, not read yet.
struct Values {
    given: BTreeMap<&'static str, Given>,
    streams: Vec<(StreamSpec, Source)>,
}

impl Values {
    fn defaults() -> Result<Self, ConfigError> {
        let default = |setting: &&Setting| {
            let text = setting.default?.to_owned();
            let source = Source::Default;
            Some((setting.key, Given { text, source }))
        };
        Ok(Self {
            given: settings::ALL.iter().filter_map(default).collect(),
            streams: streams::default()?,
        })
    }

    fn put(&mut self, layer: Layer) {
        for (setting, given) in layer.values {
            self.given.insert(setting.key, given);
        }
        if let Some(streams) = layer.streams {
            self.streams = streams;
        }
    }

    fn config(self) -> Result<Config, ConfigError> {
        Ok(Config {
            nats: self.nats()?,
            database: self.read(&settings::DATABASE_URL, DatabaseUrl::parse)?,
            schema: self.text(&settings::SCHEMA),
            source: self.text(&settings::SOURCE),
            relay: RelaySettings {
                lease: self.read(&settings::RELAY_LEASE, positive)?,
                batch: self.read(&settings::RELAY_BATCH, batch)?,
                retention: self.read(&settings::RELAY_RETENTION, duration::parse)?,
                unbound_grace: self.read(&settings::RELAY_UNBOUND_GRACE, duration::parse)?,
            },
            drain: self.read(&settings::WORKER_DRAIN, duration::parse)?,
            log: self.log()?,
            effective: self.effective(),
            streams: self.streams.into_iter().map(|(spec, _)| spec).collect(),
        })
    }

    fn text(&self, setting: &Setting) -> String {
        self.optional(setting).unwrap_or_default()
    }

    fn optional(&self, setting: &Setting) -> Option<String> {
        self.given.get(setting.key).map(|given| given.text.clone())
    }

    fn path(&self, setting: &Setting) -> Option<PathBuf> {
        self.optional(setting).map(PathBuf::from)
    }

    fn source(&self, setting: &Setting) -> Source {
        let given = self.given.get(setting.key);
        given.map_or(Source::Default, |given| given.source.clone())
    }

    fn read<T, E: fmt::Display>(
        &self,
        setting: &Setting,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, ConfigError> {
        parse(&self.text(setting)).map_err(|error| ConfigError::Invalid {
            place: self.source(setting),
            key: setting.key.to_owned(),
            reason: error.to_string(),
        })
    }

    fn nats(&self) -> Result<NatsOptions, ConfigError> {
        let servers = self.text(&settings::NATS_URL);
        let servers = servers.split(',').map(str::trim).filter(|s| !s.is_empty());
        Ok(NatsOptions::servers(servers).auth(self.auth()?).tls(self.tls()?))
    }

    /// The credentials, which are of one kind.
    fn auth(&self) -> Result<Auth, ConfigError> {
        let has_user = self.given.contains_key(settings::NATS_USER.key);
        let has_password = self.given.contains_key(settings::NATS_PASSWORD.key);
        match (has_user, has_password) {
            (true, false) => return Err(self.half(&settings::NATS_USER, &settings::NATS_PASSWORD)),
            (false, true) => return Err(self.half(&settings::NATS_PASSWORD, &settings::NATS_USER)),
            _ => {}
        }
        let in_url = self.text(&settings::NATS_URL).contains('@');
        let kinds = [
            &settings::NATS_USER,
            &settings::NATS_TOKEN,
            &settings::NATS_NKEY_SEED,
            &settings::NATS_CREDENTIALS,
        ];
        let mut given = kinds
            .into_iter()
            .filter(|kind| self.given.contains_key(kind.key))
            .chain(in_url.then_some(&settings::NATS_URL));
        if let (Some(first), Some(second)) = (given.next(), given.next()) {
            let told = |setting: &Setting| Box::new((setting.key, self.source(setting)));
            return Err(ConfigError::TwoCredentials(told(first), told(second)));
        }
        Ok(self.one_auth())
    }

    fn one_auth(&self) -> Auth {
        if let Some(user) = self.optional(&settings::NATS_USER) {
            let password = self.text(&settings::NATS_PASSWORD);
            return Auth::User { user, password };
        }
        if let Some(token) = self.optional(&settings::NATS_TOKEN) {
            return Auth::Token(token);
        }
        if let Some(seed) = self.optional(&settings::NATS_NKEY_SEED) {
            return Auth::NkeySeed(seed);
        }
        match self.path(&settings::NATS_CREDENTIALS) {
            Some(path) => Auth::CredentialsFile(path),
            None => Auth::Anonymous,
        }
    }

    fn tls(&self) -> Result<Tls, ConfigError> {
        let certificate = self.path(&settings::NATS_TLS_CERTIFICATE);
        let key = self.path(&settings::NATS_TLS_KEY);
        let client = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => {
                return Err(self.half(&settings::NATS_TLS_CERTIFICATE, &settings::NATS_TLS_KEY));
            }
            (None, Some(_)) => {
                return Err(self.half(&settings::NATS_TLS_KEY, &settings::NATS_TLS_CERTIFICATE));
            }
        };
        let roots = self.path(&settings::NATS_TLS_ROOTS);
        Ok(Tls {
            required: roots.is_some() || client.is_some(),
            roots,
            client,
        })
    }

    fn half(&self, given: &'static Setting, missing: &'static Setting) -> ConfigError {
        ConfigError::Half {
            place: self.source(given),
            key: given.key,
            missing: missing.key,
        }
    }

    fn log(&self) -> Result<Log, ConfigError> {
        let filter = self.optional(&settings::LOG_FILTER);
        if filter.is_some() {
            self.read(&settings::LOG_FILTER, |text| EnvFilter::try_new(text))?;
        }
        let format = self.read(&settings::LOG_FORMAT, |text| match text {
            "pretty" => Ok(LogFormat::Pretty),
            "json" => Ok(LogFormat::Json),
            _ => Err("write \"pretty\" or \"json\""),
        })?;
        Ok(Log { filter, format })
    }

    fn effective(&self) -> Vec<Effective> {
        let setting = |setting: &&Setting| Effective {
            key: setting.key.to_owned(),
            value: self.optional(setting).map(|text| secret::shown(setting, &text)),
            source: self.source(setting),
        };
        let stream = |(spec, source): &(StreamSpec, Source)| Effective {
            key: format!("stream.{}", spec.name),
            value: Some(shown_stream(spec)),
            source: source.clone(),
        };
        let settings = settings::ALL.iter().map(setting);
        settings.chain(self.streams.iter().map(stream)).collect()
    }
}

fn shown_stream(spec: &StreamSpec) -> String {
    let subjects: Vec<&str> = spec.subjects.iter().map(|pattern| pattern.as_str()).collect();
    let mut shown = format!("{}; replicas {}", subjects.join(", "), spec.replicas);
    if let Some(age) = spec.max_age {
        shown += &format!("; max_age {}", duration::show(age));
    }
    if let Some(bytes) = spec.max_bytes {
        shown += &format!("; max_bytes {bytes}");
    }
    shown + &format!("; duplicate_window {}", duration::show(spec.duplicate_window))
}

fn positive(text: &str) -> Result<Duration, String> {
    match duration::parse(text) {
        Ok(Duration::ZERO) => Err("it must be more than nothing".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

fn batch(text: &str) -> Result<usize, &'static str> {
    match text.parse() {
        Ok(events @ 1..=1000) => Ok(events),
        _ => Err("write a whole number from 1 to 1000"),
    }
}

impl DatabaseUrl {
    fn parse(url: &str) -> Result<Self, String> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Self::Postgres(url.to_owned()));
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
