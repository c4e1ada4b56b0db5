//! The checks at the start of a worker, which run beside it. Never ends the worker itself.

use std::{collections::BTreeSet, time::Duration};

use super::{Inspection, Runner};
use crate::{
    handler::subscriber::EventSubscriber,
    nats::{Bus, Role, names},
    policy::preflight::{Allowance, SubscriberSetup},
    preflight::{LookedStream, PreflightRefusal, WITHIN, look_at_nats, tell, tell_unchecked},
    process::Process,
};

/// The environment variable with the grace period of the process, as the manifests of a deployment know it.
const GRACE: &str = "TIDINGS_GRACE";

/// What the checks look at.
pub(super) struct Checks {
    bus: Bus,
    streams: BTreeSet<LookedStream>,
    subscribers: Vec<SubscriberSetup>,
    allowance: Allowance,
    process: Process,
}

impl Checks {
    pub(super) fn of<S: Send + Sync + 'static>(
        bus: &Bus,
        runners: &[Runner<S>],
        inspection: &Inspection,
        process: &Process,
        (shutdown_timeout, allowance): (Duration, Allowance),
    ) -> Self {
        let looked = |name: String, role| LookedStream {
            name,
            role,
            is_fed: false,
        };
        let mut streams: BTreeSet<LookedStream> = inspection
            .looked_at()
            .map(|(name, role)| looked(name, role))
            .collect();
        if !runners.is_empty() {
            streams.insert(looked(names::BUCKET_STREAM.to_owned(), Role::Bucket));
        }
        process.uses(streams.iter().map(|stream| &*stream.name));
        let runners = runners.iter();
        let subscribers = runners.map(|runner| figures(&runner.subscriber, shutdown_timeout));
        Self {
            bus: bus.clone(),
            streams,
            subscribers: subscribers.collect(),
            allowance,
            process: process.clone(),
        }
    }

    /// Ends only with a finding that refuses the start. What cannot be seen in time is not checked.
    pub(super) async fn run(self) -> PreflightRefusal {
        if self.subscribers.is_empty() {
            return std::future::pending().await;
        }
        let looking = look_at_nats(&self.bus, self.streams, false);
        let refusal = match tokio::time::timeout(WITHIN, looking).await {
            Ok((mut figures, unchecked)) => {
                tell_unchecked(&unchecked);
                figures.subscribers = self.subscribers;
                tell(&figures, &self.allowance, &self.process)
            }
            Err(_) => {
                tracing::debug!(within = ?WITHIN, "preflight: no answer in time");
                None
            }
        };
        match refusal {
            Some(refusal) => refusal,
            None => std::future::pending().await,
        }
    }
}

fn figures<S: Send + Sync + 'static>(
    subscriber: &EventSubscriber<S>,
    shutdown_timeout: Duration,
) -> SubscriberSetup {
    let pools = subscriber.housekeeping().filter_map(|needed| needed.pool);
    SubscriberSetup {
        name: subscriber.name().to_owned(),
        timeout: subscriber.timeout,
        concurrency: subscriber.concurrency,
        shutdown_timeout: Some(shutdown_timeout),
        grace: std::env::var(GRACE).ok().and_then(|text| seconds(&text)),
        pool: pools.min_by_key(|pool| pool.connections),
    }
}

/// A whole number of seconds, also as `60s`.
fn seconds(text: &str) -> Option<Duration> {
    let number = text.trim().trim_end_matches('s');
    number.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grace_period_is_read_in_seconds() {
        assert_eq!(seconds(" 60 "), Some(Duration::from_secs(60)));
        assert_eq!(seconds("45s"), Some(Duration::from_secs(45)));
        assert_eq!(seconds("1m"), None);
        assert_eq!(seconds(""), None);
    }
}
