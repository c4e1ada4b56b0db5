//! The list of all settings: key in the file, environment variable, default. Never a value.

/// One setting of the program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The key in the file, such as `nats.url`.
    pub(crate) key: &'static str,
    /// The environment variable.
    pub(super) variable: &'static str,
    /// The variable of OpenTelemetry that is read when `variable` is not set.
    pub(super) foreign_variable: Option<&'static str>,
    /// The default value.
    pub(super) default: Option<&'static str>,
    /// Which part of the value is secret.
    pub(super) secret: Secret,
    /// How many values it takes.
    pub(super) many: Many,
}

/// Which part of a value is secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Secret {
    Nothing,
    Everything,
    /// The password inside a URL.
    InUrl,
}

/// How many values a setting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Many {
    One,
    /// A list in the file, separated by commas elsewhere.
    List,
}

impl Setting {
    const fn new(key: &'static str, variable: &'static str) -> Self {
        Self {
            key,
            variable,
            foreign_variable: None,
            default: None,
            secret: Secret::Nothing,
            many: Many::One,
        }
    }

    const fn or(self, default: &'static str) -> Self {
        Self {
            default: Some(default),
            ..self
        }
    }

    const fn or_variable(self, variable: &'static str) -> Self {
        Self {
            foreign_variable: Some(variable),
            ..self
        }
    }

    const fn hiding(self, secret: Secret) -> Self {
        Self { secret, ..self }
    }
}

pub(crate) const NATS_URL: Setting = Setting {
    many: Many::List,
    ..Setting::new("nats.url", "TIDINGS_NATS_URL")
        .or("nats://127.0.0.1:4222")
        .hiding(Secret::InUrl)
};
pub(super) const NATS_USER: Setting = Setting::new("nats.user", "TIDINGS_NATS_USER");
pub(super) const NATS_PASSWORD: Setting =
    Setting::new("nats.password", "TIDINGS_NATS_PASSWORD").hiding(Secret::Everything);
pub(super) const NATS_TOKEN: Setting =
    Setting::new("nats.token", "TIDINGS_NATS_TOKEN").hiding(Secret::Everything);
pub(super) const NATS_NKEY_SEED: Setting =
    Setting::new("nats.nkey_seed", "TIDINGS_NATS_NKEY_SEED").hiding(Secret::Everything);
pub(super) const NATS_CREDENTIALS: Setting =
    Setting::new("nats.credentials", "TIDINGS_NATS_CREDENTIALS");
pub(super) const NATS_TLS_ROOTS: Setting = Setting::new("nats.tls_roots", "TIDINGS_NATS_TLS_ROOTS");
pub(super) const NATS_TLS_CERTIFICATE: Setting =
    Setting::new("nats.tls_certificate", "TIDINGS_NATS_TLS_CERTIFICATE");
pub(super) const NATS_TLS_KEY: Setting = Setting::new("nats.tls_key", "TIDINGS_NATS_TLS_KEY");
pub(super) const NATS_TLS_FIRST: Setting =
    Setting::new("nats.tls_first", "TIDINGS_NATS_TLS_FIRST").or("false");
pub(super) const NATS_DISCOVER_SERVERS: Setting =
    Setting::new("nats.discover_servers", "TIDINGS_NATS_DISCOVER_SERVERS").or("true");
pub(super) const NATS_INBOX_PREFIX: Setting =
    Setting::new("nats.inbox_prefix", "TIDINGS_NATS_INBOX_PREFIX");
pub(super) const NATS_BUCKET_MAX_BYTES: Setting =
    Setting::new("nats.bucket_max_bytes", "TIDINGS_NATS_BUCKET_MAX_BYTES");
pub(super) const NATS_BUCKET_REPLICAS: Setting =
    Setting::new("nats.bucket_replicas", "TIDINGS_NATS_BUCKET_REPLICAS");
pub(crate) const DATABASE_URL: Setting = Setting::new("database.url", "TIDINGS_DATABASE_URL")
    .or("sqlite:tidings.db")
    .hiding(Secret::InUrl);
pub(crate) const SCHEMA: Setting = Setting::new("database.schema", "TIDINGS_SCHEMA").or("tidings");
pub(super) const SOURCE: Setting = Setting::new("service.source", "TIDINGS_SOURCE").or("tidings");
pub(super) const RELAY_LEASE: Setting = Setting::new("relay.lease", "TIDINGS_RELAY_LEASE").or("5s");
pub(super) const RELAY_BATCH: Setting =
    Setting::new("relay.batch", "TIDINGS_RELAY_BATCH").or("1000");
pub(super) const RELAY_RETENTION: Setting =
    Setting::new("relay.retention", "TIDINGS_RELAY_RETENTION").or("18h");
pub(super) const RELAY_STALL_TIMEOUT: Setting =
    Setting::new("relay.stall_timeout", "TIDINGS_RELAY_STALL_TIMEOUT").or("5s");
pub(super) const OPS_LISTEN: Setting = Setting::new("ops.listen", "TIDINGS_OPS_LISTEN");
pub(super) const OPS_PUBLIC: Setting = Setting::new("ops.public", "TIDINGS_OPS_PUBLIC").or("false");
pub(super) const OPS_STUCK_AFTER: Setting =
    Setting::new("ops.stuck_after", "TIDINGS_OPS_STUCK_AFTER").or("10s");
pub(super) const TRACES_ENDPOINT: Setting =
    Setting::new("traces.endpoint", "TIDINGS_TRACES_ENDPOINT")
        .or_variable("OTEL_EXPORTER_OTLP_ENDPOINT")
        .hiding(Secret::InUrl);
pub(super) const TRACES_HEADERS: Setting = Setting {
    many: Many::List,
    ..Setting::new("traces.headers", "TIDINGS_TRACES_HEADERS")
        .or_variable("OTEL_EXPORTER_OTLP_HEADERS")
        .hiding(Secret::Everything)
};
pub(super) const TRACES_SERVICE_NAME: Setting =
    Setting::new("traces.service_name", "TIDINGS_TRACES_SERVICE_NAME")
        .or("tidings-relay")
        .or_variable("OTEL_SERVICE_NAME");
pub(super) const TRACES_TIMEOUT: Setting =
    Setting::new("traces.timeout", "TIDINGS_TRACES_TIMEOUT").or("10s");
pub(super) const DOCTOR_ALLOW: Setting = Setting {
    many: Many::List,
    ..Setting::new("doctor.allow", "TIDINGS_DOCTOR_ALLOW")
};
pub(crate) const LOG_FILTER: Setting = Setting::new("log.filter", "TIDINGS_LOG");
pub(super) const LOG_FORMAT: Setting =
    Setting::new("log.format", "TIDINGS_LOG_FORMAT").or("pretty");
pub(super) const WORKER_THREADS: Setting =
    Setting::new("runtime.worker_threads", "TIDINGS_RUNTIME_WORKER_THREADS");
pub(super) const BLOCKING_THREADS: Setting = Setting::new(
    "runtime.blocking_threads",
    "TIDINGS_RUNTIME_BLOCKING_THREADS",
);

/// All settings in the order in which they are shown, except the streams.
pub(super) const ALL: [&Setting; 33] = [
    &NATS_URL,
    &NATS_USER,
    &NATS_PASSWORD,
    &NATS_TOKEN,
    &NATS_NKEY_SEED,
    &NATS_CREDENTIALS,
    &NATS_TLS_ROOTS,
    &NATS_TLS_CERTIFICATE,
    &NATS_TLS_KEY,
    &NATS_TLS_FIRST,
    &NATS_DISCOVER_SERVERS,
    &NATS_INBOX_PREFIX,
    &NATS_BUCKET_MAX_BYTES,
    &NATS_BUCKET_REPLICAS,
    &DATABASE_URL,
    &SCHEMA,
    &SOURCE,
    &RELAY_LEASE,
    &RELAY_BATCH,
    &RELAY_RETENTION,
    &RELAY_STALL_TIMEOUT,
    &OPS_LISTEN,
    &OPS_PUBLIC,
    &OPS_STUCK_AFTER,
    &TRACES_ENDPOINT,
    &TRACES_HEADERS,
    &TRACES_SERVICE_NAME,
    &TRACES_TIMEOUT,
    &DOCTOR_ALLOW,
    &LOG_FILTER,
    &LOG_FORMAT,
    &WORKER_THREADS,
    &BLOCKING_THREADS,
];

/// The setting that takes its value from a variable, and the name of the variable.
pub(super) fn of_variable(name: &str) -> Option<(&'static Setting, &'static str)> {
    ALL.iter().find_map(|setting| {
        let variables = [Some(setting.variable), setting.foreign_variable];
        let variable = variables.into_iter().flatten().find(|one| *one == name)?;
        Some((*setting, variable))
    })
}

/// Whether a setting also takes this variable, which is not one of the program.
pub(super) fn is_foreign(name: &str) -> bool {
    ALL.iter()
        .any(|setting| setting.foreign_variable == Some(name))
}

/// The streams. In the environment: the list as TOML, `[{ name = "EVENTS", subjects = ["user.>"] }]`.
pub(super) const STREAM: Setting = Setting {
    many: Many::List,
    ..Setting::new("stream", "TIDINGS_STREAM")
};

/// The keys of one `[[stream]]`.
pub(super) const STREAM_KEYS: [&str; 6] = [
    "name",
    "subjects",
    "replicas",
    "max_age",
    "max_bytes",
    "duplicate_window",
];

/// The variable that names the configuration file.
pub(super) const CONFIG_VARIABLE: &str = "TIDINGS_CONFIG";

/// Variables that other code reads: the test servers, and the file's name.
pub(super) const FOREIGN_VARIABLES: [&str; 3] = [
    CONFIG_VARIABLE,
    "TIDINGS_NATS_SERVER",
    "TIDINGS_POSTGRES_BIN",
];
