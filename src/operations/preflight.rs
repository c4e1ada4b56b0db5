//! Gathers what the checks of the preflight look at, for the doctor. Never judges it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::timeout;

use super::{
    doctor::{Doctor, Figures, Unseen},
    subscribers::SubscriberOverview,
};
use crate::{
    nats::{Bus, Role, StreamSpec, names},
    policy::{
        issue_kind::IssueKind,
        preflight::{RelaySetup, StreamFigures, SubscriberSetup},
    },
    preflight::{LookedStream, look_at_nats},
};

/// The longest that NATS may take for the settings of all streams.
const STREAMS: Duration = Duration::from_secs(3);

/// What the doctor knows of the preflight.
#[derive(Debug, Clone, Default)]
pub(super) struct PreflightRequest {
    pub(super) is_wanted: bool,
    pub(super) allowed: BTreeSet<IssueKind>,
    pub(super) relay: Option<RelaySetup>,
}

impl Doctor {
    /// Also looks at how servers, outbox and subscribers are [configured](crate::judge::CHECKS).
    ///
    /// ```no_run
    /// use tidings::{Bus, doctor::Doctor, judge::{IssueKind, judge}};
    ///
    /// # async fn example(bus: Bus) {
    /// let doctor = Doctor::new(&bus).preflight().allow([IssueKind::OneCopy]);
    /// for finding in judge(&doctor.look().await).findings {
    ///     println!("{} {}: {}", finding.status, finding.id, finding.cause);
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn preflight(mut self) -> Self {
        self.preflight.is_wanted = true;
        self
    }

    /// Silences checks of the preflight by the kinds that they find.
    #[must_use]
    pub fn allow(mut self, kinds: impl IntoIterator<Item = IssueKind>) -> Self {
        self.preflight.allowed.extend(kinds);
        self
    }

    /// Also looks at the settings of this relay, which is the one of the outbox.
    #[cfg(feature = "outbox")]
    #[must_use]
    pub fn relay<DB: crate::outbox::Store>(mut self, relay: &crate::Relay<DB>) -> Self {
        self.preflight.relay = Some(relay.figures());
        self
    }

    /// Adds what the preflight looks at to the figures of a look.
    pub(super) async fn look_ahead(&self, bus: Option<&Bus>, figures: &mut Figures) {
        let mut seen = figures.preflight.take().unwrap_or_default();
        let fed = std::mem::take(&mut seen.streams);
        figures.allowed.clone_from(&self.preflight.allowed);
        if let Some(bus) = bus {
            let streams = streams(&fed, figures.subscribers.as_ref());
            match timeout(STREAMS, look_at_nats(bus, streams, true)).await {
                Ok((of_nats, unchecked)) => {
                    seen.nats = of_nats.nats;
                    seen.streams = of_nats.streams;
                    let unseen = unchecked.iter();
                    let unseen = unseen.map(|(what, error)| Unseen::by(what, error));
                    figures.unseen.extend(unseen);
                }
                Err(_) => figures
                    .unseen
                    .push(Unseen::silent("the settings of the streams")),
            }
        }
        seen.relay.clone_from(&self.preflight.relay);
        seen.subscribers = instances(figures.subscribers.as_ref());
        figures.preflight = Some(seen);
    }
}

/// The streams of the outbox, of the subscribers, and those that all subscribers share.
fn streams(
    fed: &[StreamFigures],
    subscribers: Option<&SubscriberOverview>,
) -> BTreeSet<LookedStream> {
    let mut roles: BTreeMap<String, (Role, bool)> = BTreeMap::new();
    let subscribers = subscribers.into_iter().flat_map(|all| &all.subscribers);
    for consumer in subscribers.flat_map(|one| &one.consumers) {
        let role = match consumer.is_of_retries {
            true => Role::Retries,
            false => Role::Events,
        };
        roles.insert(consumer.stream.clone(), (role, false));
    }
    for stream in fed {
        roles.insert(stream.name.clone(), (Role::Events, true));
    }
    let [letters, retries] = StreamSpec::internal().map(|spec| spec.name);
    roles.insert(letters, (Role::DeadLetters, false));
    roles.insert(retries, (Role::Retries, false));
    roles.insert(names::BUCKET_STREAM.to_owned(), (Role::Bucket, false));
    let looked = roles
        .into_iter()
        .map(|(name, (role, is_fed))| LookedStream { name, role, is_fed });
    looked.collect()
}

/// The settings that the instances report.
fn instances(overview: Option<&SubscriberOverview>) -> Vec<SubscriberSetup> {
    let subscribers = overview.into_iter().flat_map(|all| &all.subscribers);
    let longest = subscribers.filter_map(|one| {
        let timeout = one
            .instances
            .iter()
            .map(|instance| instance.timeout_ms)
            .max()?;
        Some(SubscriberSetup {
            name: one.name.clone(),
            timeout: Duration::from_millis(timeout),
            ..SubscriberSetup::default()
        })
    });
    longest.collect()
}
