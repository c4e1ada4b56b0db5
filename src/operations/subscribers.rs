//! Managing subscribers: inspecting their consumers and instances, pausing, pruning, resetting and removing them. Never
//! creates a consumer, and stores nothing: the server stores what is changed.
//!
//! ```no_run
//! use tidings::{Bus, subscribers::Subscribers};
//!
//! # async fn example(bus: Bus) -> Result<(), Box<dyn std::error::Error>> {
//! let subscribers = Subscribers::new(&bus);
//! for subscriber in subscribers.list().await? {
//!     println!("{}: {} wait, {} instances", subscriber.name, subscriber.pending(), subscriber.instances.len());
//! }
//! let in_an_hour = chrono::Utc::now() + chrono::TimeDelta::hours(1);
//! subscribers.pause("welcome-email", Some(in_an_hour)).await?;
//! # Ok(())
//! # }
//! ```

mod issue;
mod missing;
mod overview;
mod remove;
mod replays;
mod reset;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};

pub use crate::instance::{
    Activity, FailingKey, HotKey, Instance, OldestAttempt, OpenCircuit, WantedConsumer,
};
use crate::nats::{Bus, BusError, ConsumerSpec, Durable, drift, filters};
pub use crate::policy::breaker::CircuitState;

pub use issue::SubscriberIssue;
pub use overview::{ForeignConsumer, MissingConsumer, SubscriberOverview, WaitingRetries};
pub use remove::{RemoveError, RemovedConsumer, SubscriberRemoval};
pub use reset::{ResetError, StreamReset, SubscriberReset};

/// The end of a pause without an end: 2200-01-01, because the server counts in nanoseconds.
const FOREVER: i64 = 7_258_118_400;

/// The subscribers of a NATS server. Cheap to create; holds only the connection.
#[derive(Debug, Clone)]
pub struct Subscribers {
    bus: Bus,
}

/// A subscriber as the server and its instances report it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(Default))]
#[non_exhaustive]
pub struct SubscriberState {
    /// The name of the durable.
    pub name: String,
    /// Until when it is paused, if all its consumers are.
    pub paused_until: Option<DateTime<Utc>>,
    /// Messages that were never delivered, of all streams; `None` when the number is not known, because a consumer is
    /// missing or could not be read.
    pub known_pending: Option<u64>,
    /// One consumer for each stream that has events for it, and one for its retries.
    pub consumers: Vec<SubscriberConsumer>,
    /// The consumers that it should have but that do not exist.
    pub missing: Vec<MissingConsumer>,
    /// The waiting retries, due or not; `None` when they are not known.
    pub retries: Option<WaitingRetries>,
    /// The instances that answered within two seconds.
    pub instances: Vec<Instance>,
    /// The last sign of a process: a delivery, an ack, or a renewed lease. A process that only waits for events gives
    /// none.
    pub last_seen_at: Option<DateTime<Utc>>,
    /// Its issues; those that hold events up come first.
    pub issues: Vec<SubscriberIssue>,
    /// What could not be read, and why.
    pub unseen: Vec<String>,
}

/// One consumer of a subscriber.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SubscriberConsumer {
    /// The stream.
    pub stream: String,
    /// Whether it delivers retries.
    pub is_of_retries: bool,
    /// Messages that were never delivered: its backlog.
    pub pending: u64,
    /// The last sequence of the stream that was delivered.
    pub delivered: u64,
    /// The sequence of the stream up to which everything was acknowledged.
    pub acknowledged: u64,
    /// Deliveries that are ack pending.
    pub ack_pending: u64,
    /// How many of them were delivered more than once.
    pub redelivered: u64,
    /// Pull requests that wait at the server.
    pub pulls: u64,
    /// Until when it is paused, if it is.
    pub paused_until: Option<DateTime<Utc>>,
    /// When the last message was delivered.
    pub last_delivery_at: Option<DateTime<Utc>>,
    /// The settings that differ from what an instance that answered wants.
    pub drift: Vec<ConsumerDrift>,
    /// The whole configuration, under the names of the JetStream API.
    pub config: Map<String, Value>,
}

/// A setting of a consumer that differs from what instances want.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ConsumerDrift {
    /// The name of the setting in the JetStream API.
    pub setting: String,
    /// Its current value; null when it is not set.
    pub now: Value,
    /// The wanted value.
    pub wanted: Value,
    /// The ids of the instances that want this value.
    pub instances: Vec<String>,
}

/// Why subscribers cannot be inspected or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribersError {
    /// There is no such subscriber.
    #[error("there is no subscriber {name}")]
    Unknown {
        /// The name.
        name: String,
    },
    /// No instance answers, so it is not known which events it handles.
    #[error(
        "no instance of {name} answers: only its running instances know which events it handles"
    )]
    NoInstance {
        /// The name.
        name: String,
    },
    /// Some of its consumers were changed before NATS did not answer, or refused.
    #[error("of the consumers of {name}, only those in {done:?} were changed")]
    Partly {
        /// The subscriber.
        name: String,
        /// The streams whose consumers were changed.
        done: Vec<String>,
        /// The error for the next consumer.
        #[source]
        source: BusError,
    },
    /// NATS does not answer, or refuses.
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl Subscribers {
    /// The subscribers that are reached over a connection.
    #[must_use]
    pub fn new(bus: &Bus) -> Self {
        Self { bus: bus.clone() }
    }

    /// All subscribers, by name. [`Subscribers::overview`] also reports what could not be read, and other durables.
    ///
    /// # Errors
    /// [`SubscribersError::Bus`] when streams or consumers cannot be read.
    pub async fn list(&self) -> Result<Vec<SubscriberState>, SubscribersError> {
        match self.survey().await {
            (overview, None) => Ok(overview.subscribers),
            (_, Some(error)) => Err(error.into()),
        }
    }

    /// One subscriber, by the name of its durable. What cannot be read is in [`SubscriberState::unseen`].
    ///
    /// # Errors
    /// [`SubscribersError::Unknown`] when no stream has a consumer with this name and no process answers for it,
    /// otherwise [`SubscribersError::Bus`] when nothing about it can be read.
    pub async fn find(&self, name: &str) -> Result<SubscriberState, SubscribersError> {
        Ok(self.look(name).await?.0)
    }

    /// The same, but fails unless all of its consumers can be read.
    pub(crate) async fn find_whole(&self, name: &str) -> Result<SubscriberState, SubscribersError> {
        match self.look(name).await? {
            (state, None) => Ok(state),
            (_, Some(error)) => Err(error.into()),
        }
    }

    /// Pauses a subscriber, with all its instances, until a time, or until it is [resumed](Subscribers::resume).
    /// Meanwhile the server delivers nothing to it, even after a restart of a process; its instances finish what is in
    /// flight. Returns until when it is paused.
    ///
    /// # Errors
    /// As [`Subscribers::find`], and [`SubscribersError::Partly`]; calling it again continues.
    ///
    /// # Cancel safety
    /// When the future is dropped, some of its streams may be paused and others not. Calling it again continues.
    pub async fn pause(
        &self,
        name: &str,
        until: Option<DateTime<Utc>>,
    ) -> Result<DateTime<Utc>, SubscribersError> {
        let forever = || DateTime::from_timestamp(FOREVER, 0).unwrap_or(DateTime::<Utc>::MAX_UTC);
        let until = until.map_or_else(forever, |until| until.min(forever()));
        self.set_pause(name, Some(until)).await?;
        Ok(until)
    }

    /// Ends the pause of a subscriber; a subscriber that is not paused is unchanged. Returns whether it was paused.
    ///
    /// # Errors
    /// As [`Subscribers::pause`].
    ///
    /// # Cancel safety
    /// As [`Subscribers::pause`].
    pub async fn resume(&self, name: &str) -> Result<bool, SubscribersError> {
        self.set_pause(name, None).await
    }

    /// Stops the delivery of events that none of the running instances handles. A worker never does this by itself:
    /// events that arrive while a name is not delivered are skipped, even for an instance that handles it. Do not call
    /// this while a newer version is being rolled out: an instance that starts at the same moment is not considered.
    /// Returns the names that are no longer delivered, by stream.
    ///
    /// # Errors
    /// [`SubscribersError::NoInstance`], otherwise as [`Subscribers::pause`].
    ///
    /// # Cancel safety
    /// When the future is dropped, some of its streams may be pruned. Calling it again prunes the rest, and returns only
    /// those.
    pub async fn prune(
        &self,
        name: &str,
    ) -> Result<BTreeMap<String, Vec<String>>, SubscribersError> {
        let state = self.find_whole(name).await?;
        if state.instances.is_empty() {
            return Err(SubscribersError::NoInstance {
                name: name.to_owned(),
            });
        }
        let mut ended = BTreeMap::new();
        for consumer in &state.consumers {
            let wants = state.instances.iter().flat_map(|instance| &instance.wants);
            let wants = wants.filter(|wanted| wanted.stream == consumer.stream);
            let wanted: Vec<String> = wants.flat_map(|wanted| filters(&wanted.settings)).collect();
            let (subjects, rest) = filters(&consumer.config)
                .into_iter()
                .partition::<Vec<_>, _>(|subject| wanted.contains(subject));
            // When no wanted name remains, the consumer as a whole is unused.
            if rest.is_empty() || subjects.is_empty() {
                continue;
            }
            let spec = ConsumerSpec::new(&*consumer.stream, name, subjects);
            self.bus.prune_consumer(&spec).await?;
            ended.insert(spec.stream, rest);
        }
        Ok(ended)
    }

    /// Returns whether it was paused before.
    async fn set_pause(
        &self,
        name: &str,
        until: Option<DateTime<Utc>>,
    ) -> Result<bool, SubscribersError> {
        let durables = self.durables(name).await?;
        let was_paused = durables.iter().any(|one| one.paused_until().is_some());
        let mut done = Vec::new();
        for durable in durables {
            let consumer = (&*durable.stream, &*durable.name);
            match self.bus.pause_consumer(consumer, until).await {
                // A missing consumer needs no pause: a worker that creates it checks whether the other ones are paused.
                Ok(_) => done.push(durable.stream),
                Err(source) if done.is_empty() => return Err(source.into()),
                Err(source) => {
                    return Err(SubscribersError::Partly {
                        name: name.to_owned(),
                        done,
                        source,
                    });
                }
            }
        }
        Ok(was_paused)
    }

    async fn durables(&self, name: &str) -> Result<Vec<Durable>, SubscribersError> {
        let mut durables = self.bus.durables().await?;
        durables.retain(|durable| durable.name == name);
        match durables.is_empty() {
            true => Err(SubscribersError::Unknown {
                name: name.to_owned(),
            }),
            false => Ok(durables),
        }
    }
}

impl SubscriberState {
    /// Messages that were never delivered, of all existing consumers. [`SubscriberState::known_pending`] tells whether
    /// that is complete.
    #[must_use]
    pub fn pending(&self) -> u64 {
        let all = self.consumers.iter().map(|one| one.pending);
        all.fold(0, u64::saturating_add)
    }

    /// Deliveries that are ack pending, of all streams.
    #[must_use]
    pub fn ack_pending(&self) -> u64 {
        let all = self.consumers.iter().map(|one| one.ack_pending);
        all.fold(0, u64::saturating_add)
    }

    /// How many of them were delivered more than once, of all streams.
    #[must_use]
    pub fn redelivered(&self) -> u64 {
        let all = self.consumers.iter().map(|one| one.redelivered);
        all.fold(0, u64::saturating_add)
    }
}

impl SubscriberConsumer {
    fn of(durable: Durable, instances: &[Instance]) -> Self {
        Self {
            is_of_retries: false,
            pending: durable.num_pending,
            delivered: durable.delivered(),
            acknowledged: durable.acknowledged(),
            ack_pending: durable.num_ack_pending,
            redelivered: durable.num_redelivered,
            pulls: durable.num_waiting,
            paused_until: durable.paused_until(),
            last_delivery_at: durable.last_delivery_at(),
            drift: drift_of(&durable, instances),
            stream: durable.stream,
            config: durable.config,
        }
    }
}

/// The settings that differ from what instances want. Two versions of a service may want different settings.
fn drift_of(durable: &Durable, instances: &[Instance]) -> Vec<ConsumerDrift> {
    let mut found: Vec<ConsumerDrift> = Vec::new();
    for instance in instances {
        let wanted = instance.wants.iter();
        let wanted = wanted.filter(|wanted| wanted.stream == durable.stream);
        let differs = wanted.flat_map(|wanted| drift(&durable.config, &wanted.settings));
        for (setting, now, wanted) in differs {
            let same =
                |other: &&mut ConsumerDrift| (&other.setting, &other.wanted) == (&setting, &wanted);
            if let Some(same) = found.iter_mut().find(same) {
                same.instances.push(instance.id.clone());
                continue;
            }
            found.push(ConsumerDrift {
                setting,
                now,
                wanted,
                instances: vec![instance.id.clone()],
            });
        }
    }
    found
}
