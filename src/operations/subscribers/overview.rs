//! Inspecting subscribers: what the server knows about each, and what its instances report. What cannot be read is
//! named, and hides nothing else. Never changes anything.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, future, stream};
use serde::Serialize;

use super::{
    SubscriberConsumer, SubscriberIssue, SubscriberState, Subscribers, SubscribersError,
    issue::{Seen, issues, orphaned},
    missing::missing,
    replays::unfinished,
};
use crate::{
    instance::{Instance, can_be_durable},
    nats::{
        Bus, BusError, Durable, Durables, LeaseSign, RetrySigns, stream::streams::StreamSpec,
        subjects,
    },
    policy::{issue_kind::IssueKind, start::shifted},
    replay::Replay,
};

/// How many subscribers are inspected at once.
const AT_ONCE: usize = 64;

/// All subscribers, and the other durable consumers.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SubscriberOverview {
    /// The subscribers, by name.
    pub subscribers: Vec<SubscriberState>,
    /// Durable consumers that no worker of Tidings has created. They belong to other applications and are not judged.
    pub foreign: Vec<ForeignConsumer>,
    /// Issues that concern no single subscriber; the others are listed with their subscriber.
    pub issues: Vec<SubscriberIssue>,
    /// The replays that have not ended: running and paused.
    pub replays: Vec<Replay>,
    /// What could not be read, and why: there may be more than is reported.
    pub unseen: Vec<String>,
}

/// A durable consumer of another application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ForeignConsumer {
    /// The stream.
    pub stream: String,
    /// The durable's name.
    pub name: String,
}

/// A consumer that a subscriber should have but that does not exist. What waits there is not known: its position was
/// deleted with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MissingConsumer {
    /// The stream; `None` when it is not known which one.
    pub stream: Option<String>,
}

/// Events of a subscriber that failed and are waiting for a retry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WaitingRetries {
    /// Retries that are due: they are being handled, or will be soon.
    pub due: u64,
    /// Retries that are not due yet.
    pub scheduled: u64,
    /// When the next one is due.
    pub next_at: Option<DateTime<Utc>>,
    /// When the last one is due.
    pub farthest_at: Option<DateTime<Utc>>,
    /// How many due times were read. When that is fewer than are scheduled, an unread retry may be due earlier or
    /// later.
    pub read: u64,
}

/// What is read before any single subscriber is inspected.
struct Ground {
    durables: Durables,
    /// Replays that have not ended, or why they are not known.
    replays: Result<Vec<Replay>, String>,
    /// The last sequence of streams, as far as it is needed and known; read after their consumers.
    ends: BTreeMap<String, u64>,
}

impl Subscribers {
    /// All subscribers: every durable that a worker has created, whether a process runs it or not, and every process
    /// that answers, whether its consumers exist or not. Also the durables of other applications, by name.
    ///
    /// # Errors
    /// None: what could not be read is in [`SubscriberOverview::unseen`].
    pub async fn overview(&self) -> SubscriberOverview {
        self.survey().await.0
    }

    /// The same, with the first error of the consumers that cannot be read.
    pub(super) async fn survey(&self) -> (SubscriberOverview, Option<BusError>) {
        let (mut ground, found) = future::join(self.ground(), self.answering()).await;
        let mut unseen = ground.unseen();
        let found = found.unwrap_or_else(|error| {
            unseen.push(format!("subscribers that run without a consumer: {error}"));
            BTreeSet::new()
        });
        let mut named: BTreeMap<&str, Vec<&Durable>> = BTreeMap::new();
        for durable in &ground.durables.found {
            named.entry(&durable.name).or_default().push(durable);
        }
        let names = named.keys().copied();
        let names: BTreeSet<&str> = names.chain(found.iter().map(String::as_str)).collect();
        let looking = names.into_iter().map(|name| {
            let durables = named.get(name).cloned().unwrap_or_default();
            self.look_at(name, durables, &ground)
        });
        let states: Vec<Option<SubscriberState>> =
            stream::iter(looking).buffered(AT_ONCE).collect().await;
        let subscribers: Vec<SubscriberState> = states.into_iter().flatten().collect();
        let is_one = |name: &str| subscribers.iter().any(|one| one.name == name);
        let foreign = ground.durables.found.iter();
        let foreign = foreign.filter(|one| !is_one(&one.name) && !one.is_of_replay());
        let foreign = foreign.map(|one| ForeignConsumer {
            stream: one.stream.clone(),
            name: one.name.clone(),
        });
        let foreign = foreign.collect();
        let mut issues = match subscribers.is_empty() && unseen.is_empty() {
            true => self.why_none(&ground.durables.streams),
            false => Vec::new(),
        };
        match self.orphans(&subscribers, &ground).await {
            Ok(orphans) => issues.extend(orphans),
            Err(error) => unseen.push(format!("retries without a subscriber: {error}")),
        }
        let overview = SubscriberOverview {
            subscribers,
            foreign,
            issues,
            replays: ground.replays.unwrap_or_default(),
            unseen,
        };
        let error = ground.durables.unseen.pop();
        (overview, error.map(|(_, error)| error))
    }

    /// Everything about one subscriber that can be read, and the first error of what cannot.
    pub(super) async fn look(
        &self,
        name: &str,
    ) -> Result<(SubscriberState, Option<BusError>), SubscribersError> {
        let unknown = || SubscribersError::Unknown {
            name: name.to_owned(),
        };
        if !can_be_durable(name) {
            return Err(unknown());
        }
        let mut ground = self.ground().await;
        let durables = ground.durables.found.iter();
        let durables: Vec<&Durable> = durables.filter(|one| one.name == name).collect();
        let found = self.look_at_any(name, durables, &ground).await;
        let error = ground.durables.unseen.pop().map(|(_, error)| error);
        match (found, error) {
            (Some(state), error) => Ok((state, error)),
            (None, Some(error)) => Err(error.into()),
            (None, None) => Err(unknown()),
        }
    }

    async fn ground(&self) -> Ground {
        let durables = self.bus.seen_durables().await;
        // Without JetStream nothing is known about replays; the error of the streams is reported once, and suffices.
        let replays = match sees_streams(&durables) {
            false => Ok(Vec::new()),
            true => unfinished(&self.bus, None).await,
        };
        let replays = replays.map_err(|error| error.to_string());
        let waits = |one: &&Durable| one.num_pending == 0 && one.delivered() > 0;
        let waiting = durables.found.iter().filter(waits);
        let streams: BTreeSet<String> = waiting.map(|one| one.stream.clone()).collect();
        let ends = streams.into_iter().map(|stream| async move {
            let found = self.bus.expanse(&stream).await.ok().flatten();
            found.map(|found| (stream, found.last))
        });
        let ends: Vec<_> = stream::iter(ends).buffered(AT_ONCE).collect().await;
        Ground {
            ends: ends.into_iter().flatten().collect(),
            replays,
            durables,
        }
    }

    /// Retries of subscribers that do not exist: no list of subscribers contains them.
    async fn orphans(
        &self,
        subscribers: &[SubscriberState],
        ground: &Ground,
    ) -> Result<Vec<SubscriberIssue>, BusError> {
        let retries = StreamSpec::retries().name;
        if !ground.durables.unseen.is_empty() || !ground.durables.streams.contains(&retries) {
            return Ok(Vec::new());
        }
        let mut due = self.bus.due_by_subscriber(&retries).await?;
        due.retain(|name, _| !subscribers.iter().any(|one| one.name == *name));
        let told = due.into_iter().map(|(name, count)| orphaned(&name, count));
        Ok(told.collect())
    }

    /// The names of all subscribers that a process runs.
    async fn answering(&self) -> Result<BTreeSet<String>, BusError> {
        let answers = self.bus.scatter_gather(subjects::STATUS).await?;
        let read = |answer: &Bytes| serde_json::from_slice::<Vec<String>>(answer).ok();
        let names = answers.iter().filter_map(read).flatten();
        Ok(names.filter(|name| can_be_durable(name)).collect())
    }

    /// The state of a durable, if it is a subscriber.
    async fn look_at(
        &self,
        name: &str,
        durables: Vec<&Durable>,
        ground: &Ground,
    ) -> Option<SubscriberState> {
        if durables.iter().any(|one| one.is_of_replay()) {
            return None;
        }
        let retries = subjects::retry(name, ">");
        let is_ours = |one: &&Durable| one.is_ours() || one.takes_only(&retries);
        let is_subscriber = durables.iter().any(is_ours);
        let state = self.look_at_any(name, durables, ground).await?;
        // A durable that an older worker has created has no marker, but its process answers.
        (is_subscriber || !state.instances.is_empty()).then_some(state)
    }

    /// The state of anything with this name; `None` when there is nothing.
    async fn look_at_any(
        &self,
        name: &str,
        durables: Vec<&Durable>,
        ground: &Ground,
    ) -> Option<SubscriberState> {
        let sees = sees_streams(&ground.durables);
        let unpark_requested_at = Utc::now();
        let retries = subjects::retry(name, ">");
        let dead_letters = subjects::dead_letter(name, "any");
        let subject = subjects::status_of(name);
        let (answers, retries, dead_letters, lease) = futures::join!(
            self.bus.heard(&subject),
            found_stream(&self.bus, sees, &retries),
            found_stream(&self.bus, sees, &dead_letters),
            self.lease(sees, name),
        );
        let heard_at = Utc::now();
        let mut unseen = ground.unseen();
        let are_asked = answers.is_ok();
        let is_listened_to = answers.as_ref().is_ok_and(|heard| heard.is_listened_to);
        let mut instances: Vec<Instance> = match &answers {
            Ok(heard) => read(&heard.answers).collect(),
            Err(error) => {
                unseen.push(format!("its instances: {error}"));
                Vec::new()
            }
        };
        instances.retain(|instance| instance.subscriber == name);
        instances.sort_by(|a, b| (a.started_at, &a.id).cmp(&(b.started_at, &b.id)));
        if durables.is_empty() && instances.is_empty() {
            return None;
        }
        let signs = match &retries {
            Ok(Some(stream)) => self.bus.retry_signs(stream, name).await.map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(error.clone()),
        };
        let is_there = |found: &Result<Option<String>, BusError>| match found {
            Ok(found) => sees.then_some(found.is_some()),
            Err(_) => None,
        };
        let (has_retries, has_dead_letters) = (is_there(&retries), is_there(&dead_letters));
        let signs = kept(signs, "its retries", &mut unseen);
        kept(dead_letters, "the stream of its dead letters", &mut unseen);
        let lease = kept(lease, "its lease", &mut unseen);
        let mut last_seen_at = durables.iter().filter_map(|one| one.last_active_at()).max();
        let held = lease.filter(|lease| lease.is_held);
        last_seen_at = last_seen_at.max(held.map(|lease| lease.written_at));
        let missing = missing(
            name,
            &durables,
            &instances,
            &ground.durables,
            retries.ok().flatten(),
        );
        let of_retries = subjects::retry(name, ">");
        let consumers = durables.into_iter().cloned();
        let consumers = consumers.map(|one| SubscriberConsumer {
            is_of_retries: one.takes_only(&of_retries),
            ..SubscriberConsumer::of(one, &instances)
        });
        let mut state = SubscriberState {
            name: name.to_owned(),
            paused_until: None,
            known_pending: None,
            consumers: consumers.collect(),
            missing,
            retries: signs.map(WaitingRetries::from),
            instances,
            last_seen_at,
            issues: Vec::new(),
            unseen,
        };
        let pauses = state.consumers.iter().map(|consumer| consumer.paused_until);
        state.paused_until = pauses.min().flatten();
        let is_known = state.missing.is_empty() && state.unseen.is_empty();
        state.known_pending = is_known.then(|| state.pending());
        let ahead = ground.durables.server_ahead;
        let seen = Seen {
            now: shifted(heard_at, ahead),
            are_asked,
            is_listened_to,
            ends: ground.ends.clone(),
            has_retries,
            has_dead_letters,
            there: ground.durables.streams.clone(),
            lease,
            clocks: clocks(
                &state.instances,
                (
                    shifted(unpark_requested_at, ahead),
                    shifted(heard_at, ahead),
                ),
            ),
            replays: self.replay_issues(&state, are_asked, &ground.replays).await,
        };
        state.issues = issues(&state, &seen);
        Some(state)
    }

    async fn lease(&self, sees: bool, name: &str) -> Result<Option<LeaseSign>, BusError> {
        match sees {
            true => self.bus.lease_sign(name).await,
            false => Ok(None),
        }
    }

    /// Why there may be no subscribers where some are expected.
    fn why_none(&self, streams: &[String]) -> Vec<SubscriberIssue> {
        let server = self.bus.server_name();
        let lacks = |spec: &StreamSpec| !streams.contains(&spec.name);
        let needed = StreamSpec::internal();
        let lacking: Vec<&str> = needed
            .iter()
            .filter(|spec| lacks(spec))
            .map(|spec| &*spec.name)
            .collect();
        if lacking.is_empty() {
            return Vec::new();
        }
        let what = match streams.is_empty() {
            true => "has no stream at all".to_owned(),
            false => format!("has no stream {}", lacking.join(" and no ")),
        };
        let cause = format!(
            "this account of the nats-server {server} {what}: no subscriber can run here, or they run elsewhere"
        );
        vec![SubscriberIssue::stuck(IssueKind::Elsewhere, cause).cure(
            "compare nats.url and the credentials with those of the services; tidings streams apply, when nothing is \
             set up yet",
        )]
    }
}

impl SubscriberOverview {
    /// The first issue that holds events up, or may have lost some, and its subscriber.
    #[must_use]
    pub fn worst(&self) -> Option<(Option<&str>, &SubscriberIssue)> {
        let whole = self.issues.iter().map(|issue| (None, issue));
        let each = self.subscribers.iter();
        let each = each.flat_map(|one| one.issues.iter().map(|issue| (Some(&*one.name), issue)));
        whole.chain(each).find(|(_, issue)| issue.is_stuck)
    }
}

impl Ground {
    fn unseen(&self) -> Vec<String> {
        let durables = self.durables.unseen.iter();
        let durables = durables.map(|(stream, error)| match stream {
            Some(stream) => format!("the consumers of {stream}: {error}"),
            None => format!("streams and consumers: {error}"),
        });
        let replays = self.replays.as_ref().err();
        let replays = replays.map(|error| format!("replays: {error}"));
        durables.chain(replays).collect()
    }
}

impl From<RetrySigns> for WaitingRetries {
    fn from(signs: RetrySigns) -> Self {
        let RetrySigns {
            due,
            scheduled,
            read,
            next_at,
            farthest_at,
        } = signs;
        Self {
            due,
            scheduled,
            next_at,
            farthest_at,
            read,
        }
    }
}

/// Whether the list of streams could be read.
fn sees_streams(durables: &Durables) -> bool {
    durables.unseen.iter().all(|(stream, _)| stream.is_some())
}

/// The value that was found; an error is added to `unseen`.
fn kept<T>(found: Result<Option<T>, BusError>, what: &str, unseen: &mut Vec<String>) -> Option<T> {
    found.unwrap_or_else(|error| {
        unseen.push(format!("{what}: {error}"));
        None
    })
}

async fn found_stream(bus: &Bus, sees: bool, subject: &str) -> Result<Option<String>, BusError> {
    match sees {
        true => bus.stream_of(subject).await,
        false => Ok(None),
    }
}

/// How far the clock of each instance is ahead of the server's. The instances answered between these moments.
pub(super) fn clocks(
    instances: &[Instance],
    (from, to): (DateTime<Utc>, DateTime<Utc>),
) -> Vec<(String, TimeDelta)> {
    let told = instances.iter().filter_map(|instance| {
        let clock = instance.clock?;
        let ahead = match clock {
            clock if clock < from => clock - from,
            clock if clock > to => clock - to,
            _ => TimeDelta::zero(),
        };
        Some((instance.id.clone(), ahead))
    });
    told.collect()
}

/// Answers of another format do not come from an instance of Tidings, and are ignored.
fn read(answers: &[Bytes]) -> impl Iterator<Item = Instance> {
    let read = |answer: &Bytes| serde_json::from_slice::<Instance>(answer).ok();
    answers.iter().filter_map(read)
}
