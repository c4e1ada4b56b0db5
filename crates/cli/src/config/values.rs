//! The values in effect: merged from their sources, then parsed into the program's settings.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use tidings::{
    StreamSpec,
    judge::{CHECKS, IssueKind},
    worker::{AdjustError, Adjustment, RelayAdjustment},
};
use tracing_subscriber::EnvFilter;

use super::{
    Config, ConfigError, DatabaseUrl, Effective, Log, LogFormat, OpsSettings, Origin,
    RelaySettings, Runtime, Source, duration,
    faults::Faults,
    file::{Given, Layer},
    secret,
    settings::{self, Setting},
};

/// The merged values, not parsed yet.
pub(super) struct Values {
    pub(super) given: BTreeMap<&'static str, Given>,
    streams: Vec<(StreamSpec, Source)>,
}

impl Values {
    pub(super) fn defaults() -> Self {
        let default = |setting: &&Setting| {
            let text = setting.default?.to_owned();
            let source = Source::Default;
            Some((setting.key, Given { text, source }))
        };
        Self {
            given: settings::ALL.iter().filter_map(default).collect(),
            streams: Vec::new(),
        }
    }

    pub(super) fn put(&mut self, layer: Layer) {
        for (setting, given) in layer.values {
            self.given.insert(setting.key, given);
        }
        if let Some(streams) = layer.streams {
            self.streams = streams;
        }
    }

    /// The configuration; `None` when it has faults.
    pub(super) fn config(&self, origin: Origin, faults: &mut Faults) -> Option<Config> {
        let nats = self.nats(faults);
        let database = faults.keep(self.read(&settings::DATABASE_URL, DatabaseUrl::parse));
        let relay = self.relay(faults);
        let ops = self.ops(faults);
        let traces = self.traces(faults);
        let allow = faults.keep(self.read(&settings::DOCTOR_ALLOW, checks));
        let log = self.log(faults);
        let runtime = self.runtime(faults);
        Some(Config {
            nats: nats?,
            database: database?,
            schema: self.text(&settings::SCHEMA),
            source: self.text(&settings::SOURCE),
            relay: relay?,
            ops: ops?,
            traces: traces?,
            allow: allow?,
            log: log?,
            runtime: runtime?,
            effective: self.effective(),
            streams: self.streams.iter().map(|(spec, _)| spec.clone()).collect(),
            origin,
        })
    }

    fn relay(&self, faults: &mut Faults) -> Option<RelaySettings> {
        let lease = |text: &str| bounded(text, RelayAdjustment::lease);
        let lease = faults.keep(self.read(&settings::RELAY_LEASE, lease));
        let batch = faults.keep(self.read(&settings::RELAY_BATCH, batch));
        let retention = |text: &str| bounded(text, RelayAdjustment::retention);
        let retention = faults.keep(self.read(&settings::RELAY_RETENTION, retention));
        let stall_timeout = |text: &str| bounded(text, RelayAdjustment::stall_timeout);
        let stall_timeout = self.read(&settings::RELAY_STALL_TIMEOUT, stall_timeout);
        let stall_timeout = faults.keep(stall_timeout);
        Some(RelaySettings {
            lease: lease?,
            batch: batch?,
            retention: retention?,
            stall_timeout: stall_timeout?,
        })
    }

    fn runtime(&self, faults: &mut Faults) -> Option<Runtime> {
        let worker_threads = faults.keep(self.read_given(&settings::WORKER_THREADS, threads));
        let blocking_threads = faults.keep(self.read_given(&settings::BLOCKING_THREADS, threads));
        Some(Runtime {
            worker_threads: worker_threads?,
            blocking_threads: blocking_threads?,
        })
    }

    pub(super) fn text(&self, setting: &Setting) -> String {
        self.optional(setting).unwrap_or_default()
    }

    pub(super) fn optional(&self, setting: &Setting) -> Option<String> {
        self.given.get(setting.key).map(|given| given.text.clone())
    }

    pub(super) fn path(&self, setting: &Setting) -> Option<PathBuf> {
        self.optional(setting).map(PathBuf::from)
    }

    pub(super) fn source(&self, setting: &Setting) -> Source {
        let given = self.given.get(setting.key);
        given.map_or(Source::Default, |given| given.source.clone())
    }

    pub(super) fn read<T, E: fmt::Display>(
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

    /// As [`Values::read`]; `None` when the setting has no value.
    pub(super) fn read_given<T, E: fmt::Display>(
        &self,
        setting: &Setting,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, ConfigError> {
        match self.given.contains_key(setting.key) {
            true => self.read(setting, parse).map(Some),
            false => Ok(None),
        }
    }

    fn ops(&self, faults: &mut Faults) -> Option<OpsSettings> {
        let listen = faults.keep(self.read_given(&settings::OPS_LISTEN, address));
        let is_public = faults.keep(self.read(&settings::OPS_PUBLIC, yes_or_no));
        let stuck_after = faults.keep(self.read(&settings::OPS_STUCK_AFTER, duration::parse));
        Some(OpsSettings {
            listen: listen?,
            is_public: is_public?,
            stuck_after: stuck_after?,
        })
    }

    fn log(&self, faults: &mut Faults) -> Option<Log> {
        let filter = self.read_given(&settings::LOG_FILTER, |text| {
            EnvFilter::try_new(text).map(|_| text.to_owned())
        });
        let filter = faults.keep(filter);
        let format = self.read(&settings::LOG_FORMAT, |text| match text {
            "pretty" => Ok(LogFormat::Pretty),
            "json" => Ok(LogFormat::Json),
            _ => Err("write \"pretty\" or \"json\""),
        });
        let format = faults.keep(format);
        Some(Log {
            filter: filter?,
            format: format?,
        })
    }

    fn effective(&self) -> Vec<Effective> {
        let setting = |setting: &&Setting| Effective {
            key: setting.key.to_owned(),
            value: self
                .optional(setting)
                .map(|text| secret::shown(setting, &text)),
            source: self.source(setting),
            text: self.optional(setting),
        };
        let stream = |(spec, source): &(StreamSpec, Source)| Effective {
            key: format!("stream.{}", spec.name),
            value: Some(shown_stream(spec)),
            source: source.clone(),
            text: Some(shown_stream(spec)),
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

/// The checks of a comma-separated list.
fn checks(list: &str) -> Result<Vec<IssueKind>, String> {
    let names = list.split(',').map(str::trim);
    let names = names.filter(|name| !name.is_empty());
    let read = names.map(|name| {
        let mut kinds = CHECKS.iter().map(|check| check.kind);
        kinds.find(|kind| kind.as_str() == name).ok_or_else(|| {
            let known: Vec<&str> = CHECKS.iter().map(|check| check.kind.as_str()).collect();
            format!("there is no check {name:?}: use {}", known.join(", "))
        })
    });
    read.collect()
}

/// An address to listen on. Whether it exists here shows when it is bound.
fn address(text: &str) -> Result<String, &'static str> {
    let port = text.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(_)) => Ok(text.to_owned()),
        _ => Err("write HOST:PORT, such as 127.0.0.1:9464"),
    }
}

pub(super) fn yes_or_no(text: &str) -> Result<bool, &'static str> {
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

/// Parses a duration of the relay, within the bounds that the library has for it.
fn bounded(
    text: &str,
    setting: impl FnOnce(RelayAdjustment, Duration) -> RelayAdjustment,
) -> Result<Duration, String> {
    let duration = duration::parse(text).map_err(|error| error.to_string())?;
    within(setting(Adjustment::relay(), duration)).map(|()| duration)
}

fn batch(text: &str) -> Result<usize, String> {
    let events = text.parse().map_err(|_| "write a whole number")?;
    within(Adjustment::relay().batch(events)).map(|()| events)
}

fn within(setting: RelayAdjustment) -> Result<(), String> {
    setting.check().map_err(|error| match error {
        AdjustError::Invalid { reason, .. } => reason.to_owned(),
        other => other.to_string(),
    })
}

/// How many threads. More only wait for each other.
fn threads(text: &str) -> Result<usize, &'static str> {
    match text.parse() {
        Ok(threads @ 1..=1024) => Ok(threads),
        _ => Err("write a whole number from 1 to 1024"),
    }
}
