//! The values in effect: merged from their sources, then parsed into the program's settings.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use tidings::{
    NatsOptions, StreamSpec,
    nats::{Auth, Tls},
};
use tracing_subscriber::EnvFilter;

use super::{
    Config, ConfigError, DatabaseUrl, Effective, Log, LogFormat, RelaySettings, Source, duration,
    file::{Given, Layer},
    secret,
    settings::{self, Setting},
};

/// The merged values, not parsed yet.
pub(super) struct Values {
    given: BTreeMap<&'static str, Given>,
    streams: Vec<(StreamSpec, Source)>,
}

impl Values {
    pub(super) fn defaults() -> Result<Self, ConfigError> {
        let default = |setting: &&Setting| {
            let text = setting.default?.to_owned();
            let source = Source::Default;
            Some((setting.key, Given { text, source }))
        };
        Ok(Self {
            given: settings::ALL.iter().filter_map(default).collect(),
            streams: Vec::new(),
        })
    }

    pub(super) fn put(&mut self, layer: Layer) {
        for (setting, given) in layer.values {
            self.given.insert(setting.key, given);
        }
        if let Some(streams) = layer.streams {
            self.streams = streams;
        }
    }

    pub(super) fn config(self) -> Result<Config, ConfigError> {
        Ok(Config {
            nats: self.nats()?,
            database: self.read(&settings::DATABASE_URL, DatabaseUrl::parse)?,
            schema: self.text(&settings::SCHEMA),
            source: self.text(&settings::SOURCE),
            relay: RelaySettings {
                lease: self.read(&settings::RELAY_LEASE, lease)?,
                batch: self.read(&settings::RELAY_BATCH, batch)?,
                retention: self.read(&settings::RELAY_RETENTION, duration::parse)?,
                stall_timeout: self.read(&settings::RELAY_STALL_TIMEOUT, duration::parse)?,
            },
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
        let (servers, in_url) = self.read(&settings::NATS_URL, servers)?;
        let auth = self.auth(in_url)?;
        let mut options = NatsOptions::servers(servers).auth(auth).tls(self.tls()?);
        options.discover_servers = self.read(&settings::NATS_DISCOVER_SERVERS, yes_or_no)?;
        options.inbox_prefix = self.optional(&settings::NATS_INBOX_PREFIX);
        if self.given.contains_key(settings::NATS_BUCKET_MAX_BYTES.key) {
            let bytes = self.read(&settings::NATS_BUCKET_MAX_BYTES, |text| {
                match text.parse() {
                    Ok(bytes @ 1..) => Ok(bytes),
                    _ => Err("write a whole number of bytes, such as 67108864"),
                }
            })?;
            options = options.bucket_max_bytes(bytes);
        }
        if self.given.contains_key(settings::NATS_BUCKET_REPLICAS.key) {
            let replicas = self.read(&settings::NATS_BUCKET_REPLICAS, copies)?;
            options = options.bucket_replicas(replicas);
        }
        Ok(options)
    }

    /// The credentials, which must be of one kind.
    fn auth(&self, in_url: Option<Auth>) -> Result<Auth, ConfigError> {
        let has_user = self.given.contains_key(settings::NATS_USER.key);
        let has_password = self.given.contains_key(settings::NATS_PASSWORD.key);
        match (has_user, has_password) {
            (true, false) => return Err(self.half(&settings::NATS_USER, &settings::NATS_PASSWORD)),
            (false, true) => return Err(self.half(&settings::NATS_PASSWORD, &settings::NATS_USER)),
            _ => {}
        }
        let kinds = [
            &settings::NATS_USER,
            &settings::NATS_TOKEN,
            &settings::NATS_NKEY_SEED,
            &settings::NATS_CREDENTIALS,
        ];
        let mut given = kinds
            .into_iter()
            .filter(|kind| self.given.contains_key(kind.key))
            .chain(in_url.is_some().then_some(&settings::NATS_URL));
        if let (Some(first), Some(second)) = (given.next(), given.next()) {
            let told = |setting: &Setting| Box::new((setting.key, self.source(setting)));
            return Err(ConfigError::TwoCredentials(told(first), told(second)));
        }
        Ok(in_url.unwrap_or_else(|| self.one_auth()))
    }

    fn one_auth(&self) -> Auth {
        if let Some(user) = self.optional(&settings::NATS_USER) {
            let password = self.text(&settings::NATS_PASSWORD);
            return Auth::user(user, password);
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
        let mut tls = Tls::default();
        tls.required = roots.is_some() || client.is_some();
        tls.first = self.read(&settings::NATS_TLS_FIRST, yes_or_no)?;
        tls.roots = roots;
        tls.client = client;
        Ok(tls)
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
            value: self
                .optional(setting)
                .map(|text| secret::shown(setting, &text)),
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
    let subjects: Vec<&str> = spec
        .subjects
        .iter()
        .map(|pattern| pattern.as_str())
        .collect();
    let mut shown = format!("{}; replicas {}", subjects.join(", "), spec.replicas);
    if let Some(age) = spec.max_age {
        shown += &format!("; max_age {}", duration::show(age));
    }
    if let Some(bytes) = spec.max_bytes {
        shown += &format!("; max_bytes {bytes}");
    }
    shown
        + &format!(
            "; duplicate_window {}",
            duration::show(spec.duplicate_window)
        )
}

/// The servers of a comma-separated list, and the credentials in their URLs, if any.
fn servers(list: &str) -> Result<(Vec<String>, Option<Auth>), &'static str> {
    let mut servers = Vec::new();
    let mut credentials: Option<Auth> = None;
    for url in list.split(',').map(str::trim).filter(|url| !url.is_empty()) {
        let (server, auth) = Auth::in_url(url)?;
        if !has_good_port(&server) {
            return Err("a server is HOST:PORT, and a comma in a password is written %2C");
        }
        servers.push(server);
        match (&credentials, auth) {
            (Some(one), Some(other)) if *one != other => {
                return Err("its servers have different credentials");
            }
            (None, Some(auth)) => credentials = Some(auth),
            _ => {}
        }
    }
    Ok((servers, credentials))
}

/// Whether the text after the host is a port; if not, it may be part of a password.
fn has_good_port(server: &str) -> bool {
    let address = server.split_once("://").map_or(server, |(_, rest)| rest);
    let address = address.trim_end_matches('/');
    match address.rsplit_once(':') {
        Some((_, port)) => address.ends_with(']') || port.parse::<u16>().is_ok(),
        None => true,
    }
}

fn yes_or_no(text: &str) -> Result<bool, &'static str> {
    text.parse().map_err(|_| "write true or false")
}

/// How many replicas a stream has.
pub(super) fn copies(text: &str) -> Result<u8, &'static str> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "5" => Ok(5),
        _ => Err("a stream has 1, 3 or 5 replicas"),
    }
}

/// Parses the lease. A shorter one cannot be renewed in time; with a longer one nothing is relayed for too long after a
/// relay dies.
fn lease(text: &str) -> Result<Duration, String> {
    const SHORTEST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(3600);
    match duration::parse(text) {
        Ok(Duration::ZERO) => Err("it must be more than 0".to_owned()),
        Ok(lease) if (SHORTEST..=LONGEST).contains(&lease) => Ok(lease),
        Ok(_) => {
            Err("write 100ms to 1h: a standby waits for this long when a relay dies".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

fn batch(text: &str) -> Result<usize, &'static str> {
    match text.parse() {
        Ok(events @ 1..=1000) => Ok(events),
        _ => Err("write a whole number from 1 to 1000"),
    }
}
