//! Subscribers from the outside: how their consumers and replicas do, pausing, narrowing, resetting and removing them.
//! Never creates a consumer, and stores nothing: the server keeps what is changed.
//!
//! ```no_run
//! use tidings::{Bus, Subscribers};
//!
//! # async fn example(bus: Bus) -> Result<(), Box<dyn std::error::Error>> {
//! let subscribers = Subscribers::over(&bus);
//! for subscriber in subscribers.list().await? {
//!     println!("{}: {} wait, {} replicas", subscriber.name, subscriber.pending(), subscriber.replicas.len());
//! }
//! let in_an_hour = chrono::Utc::now() + chrono::TimeDelta::hours(1);
//! subscribers.pause("welcome-email", Some(in_an_hour)).await?;
//! # Ok(())
//! # }
//! ```

mod issue;
mod overview;
mod remove;
mod replays;
mod reset;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    bus::{Bus, BusError, ConsumerSpec, Durable, drift, filters},
    replica::Replica,
};

pub use issue::SubscriberIssue;
pub use overview::{MissingConsumer, OtherConsumer, SubscriberOverview, WaitingRetries};
pub use remove::{RemoveError, RemovedConsumer, SubscriberRemoval};
pub use reset::{ResetError, StreamReset, SubscriberReset};

/// A pause that nobody set an end to; 2200-01-01, because the server counts in nanoseconds.
const FOREVER: i64 = 7_258_118_400;

/// The subscribers of a NATS server. Cheap to make; holds nothing but the connection.
#[derive(Debug, Clone)]
pub struct Subscribers {
    bus: Bus,
}

/// A subscriber as the server and its replicas have it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SubscriberState {
    /// The durable's name.
    pub name: String,
    /// Until when it is paused, if all its consumers are.
    pub paused_until: Option<DateTime<Utc>>,
    /// Messages that were never delivered, of all streams; nothing when that is not known, because a consumer is gone or
    /// could not be seen.
    pub known_pending: Option<u64>,
    /// One consumer for each stream that has events for it, and one for its retries.
    pub consumers: Vec<SubscriberConsumer>,
    /// The consumers that it should have and has not.
    pub missing: Vec<MissingConsumer>,
    /// What waits for another attempt, due or not; nothing when that is not known.
    pub retries: Option<WaitingRetries>,
    /// The processes that run it and answered within two seconds.
    pub replicas: Vec<Replica>,
    /// The last sign of a process: a delivery, an acknowledgement, a lease that was renewed. One that only waits for
    /// events gives none.
    pub last_seen_at: Option<DateTime<Utc>>,
    /// What is wrong with it, what holds events up first.
    pub issues: Vec<SubscriberIssue>,
    /// What of it could not be seen, and why.
    pub unseen: Vec<String>,
}

/// One consumer of a subscriber.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SubscriberConsumer {
    /// The stream.
    pub stream: String,
    /// Whether it delivers events that are tried again.
    pub is_of_retries: bool,
    /// Messages that were never delivered: what it catches up on.
    pub pending: u64,
    /// The last sequence of the stream that was delivered.
    pub delivered: u64,
    /// The sequence of the stream up to which everything was acknowledged.
    pub acknowledged: u64,
    /// Deliveries that are not answered.
    pub unanswered: u64,
    /// Of those, the ones that were delivered more than once.
    pub redelivered: u64,
    /// Pulls that wait at the server.
    pub pulls: u64,
    /// Until when it is paused, if it is.
    pub paused_until: Option<DateTime<Utc>>,
    /// When the last message was delivered.
    pub last_delivery_at: Option<DateTime<Utc>>,
    /// What is not as a replica that answered wants it.
    pub drift: Vec<ConsumerDrift>,
    /// The whole configuration, under the names of the JetStream API.
    pub config: Map<String, Value>,
}

/// A setting of a consumer that is not as replicas want it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ConsumerDrift {
    /// The setting, as the JetStream API calls it.
    pub setting: String,
    /// What it is; null when it is not set.
    pub now: Value,
    /// What it should be.
    pub wanted: Value,
    /// The ids of the replicas that want it so.
    pub replicas: Vec<String>,
}

/// Why subscribers cannot be looked at, or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribersError {
    /// There is no such subscriber.
    #[error("there is no subscriber {name}")]
    Unknown {
        /// The name.
        name: String,
    },
    /// No replica answers, so nobody says what it wants.
    #[error("no replica of {name} answers: which events it handles is known by those that run")]
    NoReplica {
        /// The name.
        name: String,
    },
    /// Some of its consumers are as was asked for, and then NATS did not answer, or refused.
    #[error("of the consumers of {name} only those of {done:?} are done")]
    Partly {
        /// The subscriber.
        name: String,
        /// The streams whose consumers are as was asked for.
        done: Vec<String>,
        /// What NATS said of the next one.
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
    pub fn over(bus: &Bus) -> Self {
        Self { bus: bus.clone() }
    }

    /// All subscribers, by name. [`Subscribers::overview`] tells besides what could not be seen, and what else there is.
    ///
    /// # Errors
    /// [`SubscribersError::Bus`] when streams or consumers cannot be seen.
    pub async fn list(&self) -> Result<Vec<SubscriberState>, SubscribersError> {
        match self.survey().await {
            (overview, None) => Ok(overview.subscribers),
            (_, Some(error)) => Err(error.into()),
        }
    }

    /// One subscriber, by the name of its durable. What of it cannot be seen is in [`SubscriberState::unseen`].
    ///
    /// # Errors
    /// [`SubscribersError::Unknown`] when no stream has a consumer of this name and no process answers to it, else
    /// [`SubscribersError::Bus`] when nothing of it can be seen.
    pub async fn find(&self, name: &str) -> Result<SubscriberState, SubscribersError> {
        Ok(self.look(name).await?.0)
    }

    /// The same, when all of its consumers can be seen.
    pub(crate) async fn find_whole(&self, name: &str) -> Result<SubscriberState, SubscribersError> {
        match self.look(name).await? {
            (state, None) => Ok(state),
            (_, Some(error)) => Err(error.into()),
        }
    }

    /// Pauses a subscriber, all replicas of it, until a time, or until it is [resumed](Subscribers::resume). The
    /// server delivers nothing to it meanwhile, whoever restarts; what its replicas have in hand they end. Gives
    /// until when it is paused.
    ///
    /// # Errors
    /// As [`Subscribers::find`], and [`SubscribersError::Partly`]; the same again goes on.
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

    /// Ends the pause of a subscriber. One that is not paused stays as it is. Gives whether it was.
    ///
    /// # Errors
    /// As [`Subscribers::pause`].
    pub async fn resume(&self, name: &str) -> Result<bool, SubscribersError> {
        self.set_pause(name, None).await
    }

    /// Has a subscriber no longer get the events that none of its running replicas handles. A worker never does
    /// this by itself: events that come while a name is not delivered are skipped, for a replica that handles it
    /// too. Not while a newer version is being rolled out: a replica that starts at the same moment is not asked.
    /// Gives what is no longer delivered, by stream.
    ///
    /// # Errors
    /// [`SubscribersError::NoReplica`], else as [`Subscribers::pause`].
    pub async fn narrow(
        &self,
        name: &str,
    ) -> Result<BTreeMap<String, Vec<String>>, SubscribersError> {
        let state = self.find_whole(name).await?;
        if state.replicas.is_empty() {
            return Err(SubscribersError::NoReplica {
                name: name.to_owned(),
            });
        }
        let mut ended = BTreeMap::new();
        for consumer in &state.consumers {
            let wants = state.replicas.iter().flat_map(|replica| &replica.wants);
            let wants = wants.filter(|wanted| wanted.stream == consumer.stream);
            let wanted: Vec<String> = wants.flat_map(|wanted| filters(&wanted.settings)).collect();
            let (subjects, rest) = filters(&consumer.config)
                .into_iter()
                .partition::<Vec<_>, _>(|subject| wanted.contains(subject));
            // Without a name that is wanted, the whole consumer is left over.
            if rest.is_empty() || subjects.is_empty() {
                continue;
            }
            let spec = ConsumerSpec::new(&*consumer.stream, name, subjects);
            self.bus.narrow_consumer(&spec).await?;
            ended.insert(spec.stream, rest);
        }
        Ok(ended)
    }

    /// Gives whether it was paused before.
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
                // A worker that creates one that is gone asks whether the others are paused.
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
    /// Messages that were never delivered, of all consumers that are there: [`SubscriberState::known_pending`] says
    /// whether that is all.
    #[must_use]
    pub fn pending(&self) -> u64 {
        let all = self.consumers.iter().map(|one| one.pending);
        all.fold(0, u64::saturating_add)
    }

    /// Deliveries that are not answered, of all streams.
    #[must_use]
    pub fn unanswered(&self) -> u64 {
        let all = self.consumers.iter().map(|one| one.unanswered);
        all.fold(0, u64::saturating_add)
    }

    /// Of the unanswered deliveries those that were delivered more than once, of all streams.
    #[must_use]
    pub fn redelivered(&self) -> u64 {
        let all = self.consumers.iter().map(|one| one.redelivered);
        all.fold(0, u64::saturating_add)
    }
}

impl SubscriberConsumer {
    fn of(durable: Durable, replicas: &[Replica]) -> Self {
        Self {
            is_of_retries: false,
            pending: durable.num_pending,
            delivered: durable.delivered(),
            acknowledged: durable.acknowledged(),
            unanswered: durable.num_ack_pending,
            redelivered: durable.num_redelivered,
            pulls: durable.num_waiting,
            paused_until: durable.paused_until(),
            last_delivery_at: durable.last_delivery_at(),
            drift: drift_of(&durable, replicas),
            stream: durable.stream,
            config: durable.config,
        }
    }
}

/// What differs from what replicas want. Two versions of a service may want different things.
fn drift_of(durable: &Durable, replicas: &[Replica]) -> Vec<ConsumerDrift> {
    let mut found: Vec<ConsumerDrift> = Vec::new();
    for replica in replicas {
        let wanted = replica.wants.iter();
        let wanted = wanted.filter(|wanted| wanted.stream == durable.stream);
        let differs = wanted.flat_map(|wanted| drift(&durable.config, &wanted.settings));
        for (setting, now, wanted) in differs {
            let same =
                |other: &&mut ConsumerDrift| (&other.setting, &other.wanted) == (&setting, &wanted);
            if let Some(same) = found.iter_mut().find(same) {
                same.replicas.push(replica.id.clone());
                continue;
            }
            found.push(ConsumerDrift {
                setting,
                now,
                wanted,
                replicas: vec![replica.id.clone()],
            });
        }
    }
    found
}
