//! Reads the configuration again while a relay runs, on SIGHUP and when its file has changed, and changes what can
//! change. A configuration that cannot be used changes nothing, and is an issue until a good one is read.
//!
//! The file is looked at every two seconds, not watched with inotify: that is one call of `stat`, follows any number of
//! links (a Kubernetes ConfigMap swaps one of a parent folder), and also works on network and overlay file systems,
//! where no notification comes.

use std::{convert::Infallible, time::Duration};

use tidings::{error_text::error_texts, outbox::RelayHandle, worker::Adjustment};
use tokio::sync::Notify;
use tracing::Level;

use super::logging::LogFilter;
use crate::config::{Change, Config, Identity, LOG_FILTER};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How long a file has to stay as it is before it is read: its writer may not have finished.
const SETTLED: Duration = Duration::from_millis(200);
/// The shortest stall timeout, which 0 stands for.
const SHORTEST_STALL: Duration = Duration::from_millis(1);

pub(super) struct Reload<'a> {
    /// With which the program has started.
    started: &'a Config,
    /// The settings that were read last and could be used.
    read: Option<Config>,
    /// The file as it was when it was read last, also when it could not be used.
    seen: Option<Identity>,
    relay: RelayHandle,
    log: LogFilter,
}

impl<'a> Reload<'a> {
    pub(super) fn new(started: &'a Config, relay: RelayHandle, log: LogFilter) -> Self {
        Self {
            started,
            read: None,
            seen: started.identity().cloned(),
            relay,
            log,
        }
    }

    /// Reads the configuration again whenever it is asked to, and whenever the file has changed.
    pub(super) async fn run(mut self, asked: &Notify) -> Infallible {
        loop {
            tokio::select! {
                () = asked.notified() => {}
                () = self.changed() => {}
            }
            self.seen = Identity::of(self.started.path());
            match self.again() {
                Ok(()) => self.relay.configuration_issue(None),
                Err(why) => {
                    tracing::error!(
                        error = why,
                        "configuration not reloaded: the settings before it stay in effect"
                    );
                    self.relay.configuration_issue(Some(&why));
                }
            }
        }
    }

    /// Waits until the file has changed, and stays as it is.
    async fn changed(&self) {
        let path = self.started.path();
        loop {
            tokio::time::sleep(LOOK).await;
            let mut now = Identity::of(path);
            if now == self.seen {
                continue;
            }
            loop {
                tokio::time::sleep(SETTLED).await;
                let later = Identity::of(path);
                if later == now {
                    return;
                }
                now = later;
            }
        }
    }

    /// Reads, checks, and changes what can change. On an error nothing has changed.
    fn again(&mut self) -> Result<(), String> {
        let again = self.started.again().map_err(|fault| fault.text())?;
        let relay = Adjustment::relay()
            .lease(again.relay.lease)
            .batch(again.relay.batch)
            .retention(again.relay.retention)
            .stall_timeout(again.relay.stall_timeout.max(SHORTEST_STALL));
        let adjusted = self.relay.adjust(&relay);
        adjusted.map_err(|error| error_texts(&error).join(": "))?;
        let before = self.read.as_ref().unwrap_or(self.started);
        let changes = before.changes(&again);
        if let Some(filter) = changes.iter().find(|change| change.key == LOG_FILTER.key) {
            self.filter(filter, &again);
        }
        tracing::info!(changed = changes.len(), "configuration reloaded");
        self.tell_unchanged(&again);
        self.read = Some(again);
        Ok(())
    }

    /// Replaces the log filter. The line about it is logged while it passes one of the two.
    fn filter(&self, change: &Change, config: &Config) {
        let (old, new) = (change.old.as_deref(), change.new.as_deref());
        let tell = || tracing::info!(setting = change.key, old, new, "setting adjusted");
        let is_told = tracing::enabled!(Level::INFO);
        if is_told {
            tell();
        }
        if self.log.set(&config.log) && !is_told {
            tell();
        }
    }

    /// Names the settings that differ from those in effect.
    fn tell_unchanged(&self, again: &Config) {
        let changes = self.started.changes(again);
        let keys = changes.iter().map(|change| &*change.key);
        let (streams, others): (Vec<&str>, Vec<&str>) =
            keys.partition(|key| key.starts_with("stream."));
        let restart: Vec<&str> = others.into_iter().filter(|key| !is_live(key)).collect();
        if !restart.is_empty() {
            let settings = restart.join(", ");
            tracing::warn!(
                settings,
                "restart required: these settings have changed and are not in effect"
            );
        }
        if !streams.is_empty() {
            let streams = streams.join(", ");
            tracing::info!(
                streams,
                "streams not applied: their configuration has changed; run `tidings streams apply`"
            );
        }
    }
}

/// Whether a setting changes while the relay runs.
fn is_live(key: &str) -> bool {
    key.starts_with("relay.") || key == LOG_FILTER.key
}
