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

/// The times of the end of a worker.
#[derive(Clone, Copy)]
pub(super) struct EndTimes {
    pub(super) shutdown_timeout: Duration,
    pub(super) grace: Option<Duration>,
}

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
        (ends, allowance): (EndTimes, Allowance),
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
        let subscribers = runners.map(|runner| figures(&runner.subscriber, ends));
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
                tell(&figures, &self.allowance, |found| {
                    self.process.has_concerns(found);
                })
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
    ends: EndTimes,
) -> SubscriberSetup {
    let pools = subscriber.housekeeping().filter_map(|needed| needed.pool);
    SubscriberSetup {
        name: subscriber.name().to_owned(),
        timeout: subscriber.timeout,
        concurrency: subscriber.concurrency,
        shutdown_timeout: Some(ends.shutdown_timeout),
        grace: ends.grace,
        pool: pools.min_by_key(|pool| pool.connections),
    }
}
