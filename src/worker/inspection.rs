//! Inspects the streams that a worker depends on, and the bucket, while it runs. Wrong settings are reported with their
//! cure; those of the bucket are corrected. Never changes a stream of events.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior};

use super::needs::needs;
use crate::{
    instance::Instance,
    nats::{BadEntry, Bus, BusError, ConsumerSpec, Need, Role, keys},
};

/// How often everything is inspected.
const LOOK: Duration = Duration::from_secs(5);
/// How long the bucket is left as it is when it could not be corrected.
const PAUSE: Duration = Duration::from_secs(60);
/// How many bad entries are remembered.
const MOST: usize = 100;

/// The findings. Written by the inspection, read by the status reporter of each subscriber.
#[derive(Default)]
pub(super) struct Inspection {
    /// Each stream with its role, and the subjects that it has to carry.
    streams: Mutex<BTreeMap<(String, Role), BTreeSet<String>>>,
    /// The permissions that each subscriber needs.
    needs: Mutex<BTreeMap<String, Vec<Need>>>,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    of_streams: BTreeMap<String, Vec<String>>,
    of_bucket: Vec<String>,
    /// Missing permissions, by subscriber.
    of_rights: BTreeMap<String, Vec<String>>,
    bad: BTreeMap<String, BadEntry>,
    /// Why no event can be dead-lettered, when the stream of the dead letters is missing.
    no_dead_letters: Option<String>,
    /// Streams that this user may not inspect.
    denied: BTreeSet<String>,
}

impl Inspection {
    /// Adds the streams and the permissions of a subscriber; the last consumer is that of its retries.
    pub(super) fn add(
        &self,
        consumers: &[ConsumerSpec],
        dead_letters: &str,
        (name, is_ordered): (&str, bool),
    ) {
        let needed = needs(consumers, dead_letters, name, is_ordered);
        let mut all = self.needs.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(name.to_owned(), needed);
        drop(all);
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams
            .entry((dead_letters.to_owned(), Role::DeadLetters))
            .or_default();
        let last = consumers.len().saturating_sub(1);
        for (at, consumer) in consumers.iter().enumerate() {
            let (role, wanted) = match at == last {
                true => (Role::Retries, &[][..]),
                false => (Role::Events, &consumer.subjects[..]),
            };
            let known = streams.entry((consumer.stream.clone(), role)).or_default();
            known.extend(wanted.iter().cloned());
        }
    }

    /// The streams of the subscribers that were added, with the role of each.
    pub(super) fn looked_at(&self) -> impl Iterator<Item = (String, Role)> {
        self.wanted().into_keys()
    }

    /// Inspects repeatedly, as long as it is polled.
    pub(super) async fn run(self: Arc<Self>, bus: Bus) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refused: Option<(Instant, String)> = None;
        let mut lost = bus.losses();
        lost.mark_changed();
        loop {
            looks.tick().await;
            if bus.is_connected() {
                // Another connection may have other permissions.
                if lost.has_changed().unwrap_or(false) {
                    lost.mark_unchanged();
                    self.look_at_rights(&bus).await;
                }
                self.look_at_streams(&bus).await;
                self.look_at_bucket(&bus, &mut refused).await;
                self.look_at_entries(&bus).await;
            }
        }
    }

    /// The issues of everything that a subscriber depends on.
    pub(super) fn issues_of(&self, instance: &Instance) -> Vec<String> {
        let found = self.found();
        let mut issues = found.of_bucket.clone();
        let of_rights = found.of_rights.get(&instance.subscriber);
        issues.extend(of_rights.into_iter().flatten().cloned());
        for ((stream, role), _) in self.wanted() {
            let is_its = role == Role::DeadLetters
                || instance.wants.iter().any(|wanted| wanted.stream == stream);
            if is_its && let Some(of_stream) = found.of_streams.get(&stream) {
                issues.extend(of_stream.iter().cloned());
            }
        }
        let bad = found.bad.values();
        let bad = bad.filter(|bad| keys::subscriber_of(&bad.key) == Some(&instance.subscriber));
        issues.extend(bad.map(ToString::to_string));
        issues
    }

    /// Why no event can be dead-lettered, if that is so.
    pub(super) fn no_dead_letters(&self) -> Option<String> {
        self.found().no_dead_letters.clone()
    }

    /// The permissions that a subscriber lacks.
    pub(super) fn missing_rights_of(&self, subscriber: &str) -> Vec<String> {
        let found = self.found();
        found.of_rights.get(subscriber).cloned().unwrap_or_default()
    }

    /// An entry of the bucket is skipped. It is reported until it is overwritten or deleted.
    pub(super) fn skips(&self, entry: BadEntry) {
        let mut found = self.found();
        let is_known = found.bad.get(&entry.key) == Some(&entry);
        if is_known || found.bad.len() >= MOST {
            return;
        }
        tracing::error!(issue = %entry, "bucket entry skipped");
        found.bad.insert(entry.key.clone(), entry);
    }

    async fn look_at_rights(&self, bus: &Bus) {
        let needs = self.needs.lock();
        let needs = needs.unwrap_or_else(PoisonError::into_inner).clone();
        let Some(rights) = bus.rights().await else {
            return;
        };
        for (subscriber, mut needed) in needs {
            needed.push(Need::subscribe(bus.an_inbox(), "answers"));
            let missing = rights.missing(&needed);
            let before = self.found().of_rights.insert(subscriber, missing.clone());
            tell(&before.unwrap_or_default(), &missing);
        }
    }

    async fn look_at_streams(&self, bus: &Bus) {
        let others = self.names();
        for ((stream, role), wanted) in self.wanted() {
            if self.found().denied.contains(&stream) {
                continue;
            }
            let wanted: Vec<String> = wanted.into_iter().collect();
            match bus.stream_issues(&stream, role, &wanted, &others).await {
                Ok(issues) => {
                    // Nothing pulls from it: the other streams are missed by their sources.
                    if role == Role::DeadLetters {
                        self.note_dead_letters(&stream, issues.is_some());
                    }
                    let issues = issues.unwrap_or_default();
                    let before = self.found().of_streams.insert(stream, issues.clone());
                    tell(&before.unwrap_or_default(), &issues);
                }
                Err(error @ BusError::Denied { .. }) => {
                    tracing::warn!(stream, %error, "stream check denied");
                    self.found().denied.insert(stream);
                }
                Err(error) => tracing::debug!(stream, %error, "stream check failed"),
            }
        }
    }

    fn note_dead_letters(&self, stream: &str, is_there: bool) {
        let why = || {
            format!(
                "the stream {stream} is gone with its dead letters, and no event can be dead-lettered; try: tidings \
                 streams apply"
            )
        };
        let now = (!is_there).then(why);
        let before = std::mem::replace(&mut self.found().no_dead_letters, now.clone());
        tell(before.as_slice(), now.as_slice());
    }

    async fn look_at_bucket(&self, bus: &Bus, refused: &mut Option<(Instant, String)>) {
        const BUCKET: &str = "the bucket";
        if self.found().denied.contains(BUCKET) {
            return;
        }
        let is_old = |(at, _): &mut (Instant, String)| at.elapsed() > PAUSE;
        refused.take_if(is_old);
        let before = refused.as_ref().map(|(_, why)| &**why);
        match bus.bucket_issues(before, &self.names()).await {
            Ok((issues, why)) => {
                if before.is_none() {
                    *refused = why.map(|why| (Instant::now(), why));
                }
                let before = std::mem::replace(&mut self.found().of_bucket, issues.clone());
                tell(&before, &issues);
            }
            Err(error @ BusError::Denied { .. }) => {
                tracing::warn!(%error, "bucket check denied");
                self.found().denied.insert(BUCKET.to_owned());
            }
            Err(error) => tracing::debug!(%error, "bucket check failed"),
        }
    }

    /// Forgets bad entries that were repaired.
    async fn look_at_entries(&self, bus: &Bus) {
        let bad: Vec<BadEntry> = self.found().bad.values().cloned().collect();
        for entry in bad {
            let is_it = match bus.read_state(&entry.key).await {
                Ok(now) => now.is_some_and(|now| now.revision == entry.revision),
                Err(_) => true,
            };
            if !is_it {
                self.found().bad.remove(&entry.key);
            }
        }
    }

    /// The streams that are inspected.
    fn names(&self) -> Vec<String> {
        let names: BTreeSet<String> = self.wanted().into_keys().map(|(name, _)| name).collect();
        names.into_iter().collect()
    }

    fn wanted(&self) -> BTreeMap<(String, Role), BTreeSet<String>> {
        let streams = self.streams.lock();
        streams.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs the issues that are new.
fn tell(before: &[String], now: &[String]) {
    for issue in now.iter().filter(|issue| !before.contains(issue)) {
        tracing::error!(%issue, "worker issue found");
    }
}
