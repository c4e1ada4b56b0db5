//! The log on stderr, so that stdout holds results only. No line shows a secret.

use std::io::{self, IsTerminal, Write};

use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, filter_fn},
    fmt,
    layer::SubscriberExt,
    registry, reload,
    util::SubscriberInitExt,
};

use super::untrusted;
use crate::config::{Log, LogFormat};

/// The filter of the log, which can change while the program runs.
pub(super) struct LogFilter {
    handle: reload::Handle<EnvFilter, Registry>,
    default: &'static str,
}

impl LogFilter {
    /// Replaces the filter. Returns whether it was replaced.
    pub(super) fn set(&self, log: &Log) -> bool {
        self.handle.reload(filter(log, self.default)).is_ok()
    }
}

fn filter(log: &Log, default: &str) -> EnvFilter {
    EnvFilter::new(log.filter.as_deref().unwrap_or(default))
}

/// Starts logging. `default` is the filter when the configuration has none.
pub(super) fn begin(log: &Log, default: &'static str) -> LogFilter {
    let (filter, handle) = reload::Layer::new(filter(log, default));
    let filter = filter.and(filter_fn(is_public));
    let shown = match log.format {
        LogFormat::Pretty => untrusted::log_line,
        LogFormat::Json => untrusted::log_object,
    };
    let lines = fmt::layer()
        .with_writer(move || Lines(shown))
        .with_ansi(io::stderr().is_terminal());
    let lines = match log.format {
        LogFormat::Pretty => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    registry().with(lines.with_filter(filter)).init();
    LogFilter { handle, default }
}

/// Converts a log line and writes it to stderr. A layer passes each line whole.
struct Lines(fn(&str) -> String);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let shown = (self.0)(&String::from_utf8_lossy(line));
        // A failed write of a log line must not stop the work that it describes.
        let _ = io::stderr().write_all(shown.as_bytes());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hides log lines of async-nats: its trace level contains the CONNECT line, and with it the password or token. Its
/// connection messages are repeated in our own lines, with the server's name.
fn is_public(line: &Metadata<'_>) -> bool {
    let is_hidden = [Level::TRACE, Level::INFO].contains(line.level());
    !(is_hidden && line.target().starts_with("async_nats"))
}
