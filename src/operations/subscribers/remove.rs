//! Removing a subscriber that is no longer used: the plan, and the removal. Never while a process of it runs. Never
//! removes an event: events stay in their streams, and waiting retries are dead-lettered.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::{Subscribers, SubscribersError, WaitingRetries, replays::unfinished};
use crate::{
    instance::{Instance, can_be_durable},
    nats::{Bus, BusError, Durable, keys, subjects},
    replay::{ReplayState, tag::ReplayId},
};

/// How long an empty entry stays.
const EMPTY: Duration = Duration::from_secs(60);
/// A lease that was not renewed for this long is free.
const LEASE: TimeDelta = TimeDelta::seconds(10);

/// What removing a subscriber would remove, and what waits for it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SubscriberRemoval {
    /// The subscriber.
    pub subscriber: String,
    /// Its consumers, which are deleted.
    pub consumers: Vec<RemovedConsumer>,
    /// The waiting retries, which are dead-lettered.
    pub retries: WaitingRetries,
    /// The number of its dead letters, which are kept; `None` when their stream does not exist.
    pub dead_letters: Option<u64>,
    /// The unfinished replays, which are cancelled.
    pub replays: Vec<ReplayId>,
    /// How many keys it has parked; they are unparked.
    pub parked_keys: usize,
    /// The entries of the bucket `TIDINGS` that are removed: leases, parked keys.
    pub entries: Vec<String>,
    /// The last sign of a process, as far as it is known.
    pub last_seen_at: Option<DateTime<Utc>>,
}

/// A consumer that is deleted with its subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RemovedConsumer {
    /// The stream.
    pub stream: String,
    /// Messages that were never delivered to it; they stay in their stream, except retries.
    pub pending: u64,
    /// Deliveries that are ack pending.
    pub ack_pending: u64,
    /// The sequence up to which everything was acknowledged.
    pub acknowledged: u64,
}

/// Why a subscriber is not removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// A process still runs it.
    #[error("{name} still runs: {who}")]
    Runs {
        /// The name.
        name: String,
        /// The evidence.
        who: String,
    },
    /// Another application has created the durable.
    #[error("{name} of {} is not a subscriber: another application has created the durable", streams.join(" and "))]
    Foreign {
        /// The durable's name.
        name: String,
        /// Its streams.
        streams: Vec<String>,
    },
    /// There is no subscriber with this name, or NATS does not answer, or refuses.
    #[error(transparent)]
    Subscribers(#[from] SubscribersError),
}

impl From<BusError> for RemoveError {
    fn from(error: BusError) -> Self {
        Self::Subscribers(error.into())
    }
}

impl Subscribers {
    /// What [`Subscribers::remove`] would remove. Changes nothing.
    ///
    /// # Errors
    /// [`SubscribersError::Unknown`] when nothing is stored for this name; [`RemoveError::Foreign`] when another
    /// application has created the durable; [`RemoveError::Runs`] while a process answers, pulls or holds the lease;
    /// otherwise the error of NATS.
    pub async fn plan_remove(&self, name: &str) -> Result<SubscriberRemoval, RemoveError> {
        let durables = self.refuse_running(name).await?;
        let retries = match self.bus.stream_of(&subjects::retry(name, ">")).await? {
            Some(stream) => self.bus.retry_signs(&stream, name).await?.into(),
            None => WaitingRetries::default(),
        };
        let replays = unfinished(&self.bus, Some(name)).await?;
        let entries = self.bus.entries_of(name).await?;
        let waits = retries.due > 0 || retries.scheduled > 0;
        if durables.is_empty() && entries.is_empty() && replays.is_empty() && !waits {
            let name = name.to_owned();
            return Err(SubscribersError::Unknown { name }.into());
        }
        let is_parked = |entry: &&String| keys::is_parked(entry);
        let seen = durables.iter().filter_map(Durable::last_active_at);
        Ok(SubscriberRemoval {
            subscriber: name.to_owned(),
            retries,
            dead_letters: self.bus.dead_letter_count(name).await?,
            replays: replays.iter().map(|replay| replay.id).collect(),
            parked_keys: entries.iter().filter(is_parked).count(),
            entries,
            last_seen_at: seen.max(),
            consumers: durables.into_iter().map(RemovedConsumer::from).collect(),
        })
    }

    /// Removes a subscriber: cancels its replays, dead-letters its waiting retries, clears its entries and deletes its
    /// consumers, those of its events last. Dead letters are kept, and events stay in their streams. Returns how many
    /// events were dead-lettered.
    ///
    /// # Errors
    /// As [`Subscribers::plan_remove`], and [`SubscribersError::Partly`]; calling it again continues.
    ///
    /// # Cancel safety
    /// When the future is dropped, the subscriber is partly removed, and calling it again continues. No retry is lost:
    /// its dead letter is confirmed before the retry is deleted.
    pub async fn remove(&self, removal: &SubscriberRemoval) -> Result<u64, RemoveError> {
        let name = &*removal.subscriber;
        // A process may have started since the plan.
        let durables = self.refuse_running(name).await?;
        for id in &removal.replays {
            self.cancel(*id).await?;
        }
        let of_retries = subjects::retry(name, ">");
        let stream = self.bus.stream_of(&of_retries).await?;
        let mut dead_letters = retire(&self.bus, stream.as_deref(), name).await?;
        for entry in self.bus.entries_of(name).await? {
            self.bus.clear_state(EMPTY, &entry).await?;
        }
        let (retries, events): (Vec<_>, Vec<_>) = durables
            .into_iter()
            .partition(|one| one.takes_only(&of_retries));
        let mut done = Vec::new();
        for durable in retries.into_iter().chain(events) {
            let deleting = self.bus.delete_consumer(&durable.stream, name).await;
            deleting.map_err(|source| partly(name, &done, source))?;
            done.push(durable.stream);
        }
        // Retries that have become due meanwhile.
        let late = retire(&self.bus, stream.as_deref(), name).await;
        dead_letters += late.map_err(|source| partly(name, &done, source))?;
        tracing::warn!(subscriber = name, dead_letters, "subscriber removed");
        Ok(dead_letters)
    }

    /// Ends a replay that no process works on, and deletes its consumers.
    async fn cancel(&self, id: ReplayId) -> Result<(), BusError> {
        loop {
            let Some(entry) = self.bus.replay(id).await? else {
                return Ok(());
            };
            let (revision, mut replay) = (entry.revision, entry.value);
            if !replay.state.is_final() {
                replay.state = ReplayState::Cancelled;
                replay.reason = Some("its subscriber was removed".to_owned());
                replay.state_at = Utc::now();
                if self.bus.write_replay(&replay, revision).await?.is_none() {
                    continue;
                }
            }
            return self.bus.delete_consumers_of(&replay).await;
        }
    }

    /// Its consumers; fails while a process of it runs.
    async fn refuse_running(&self, name: &str) -> Result<Vec<Durable>, RemoveError> {
        let runs = |who: String| RemoveError::Runs {
            name: name.to_owned(),
            who,
        };
        if !can_be_durable(name) {
            let name = name.to_owned();
            return Err(SubscribersError::Unknown { name }.into());
        }
        let mut durables = self.bus.durables().await?;
        durables.retain(|durable| durable.name == name);
        let retries = subjects::retry(name, ">");
        let is_ours = |one: &Durable| one.is_ours() || one.takes_only(&retries);
        if !durables.is_empty() && !durables.iter().any(is_ours) {
            let streams = durables.iter().map(|one| one.stream.clone());
            return Err(RemoveError::Foreign {
                name: name.to_owned(),
                streams: streams.collect(),
            });
        }
        let heard = self.bus.heard(&subjects::status_of(name)).await?;
        if let Some(answer) = heard.answers.first() {
            let instance: Option<Instance> = serde_json::from_slice(answer).ok();
            return Err(runs(instance.map_or_else(
                || "a process answers".to_owned(),
                |instance| format!("process {} on {} answers", instance.pid, instance.host),
            )));
        }
        if heard.is_listened_to {
            return Err(runs(
                "a process is connected that has it, and does not answer: it is frozen, or a handler blocks it"
                    .to_owned(),
            ));
        }
        if let Some(pulled) = durables.iter().find(|one| one.num_waiting > 0) {
            let (pulls, stream) = (pulled.num_waiting, &pulled.stream);
            return Err(runs(format!(
                "{pulls} pulls of a process wait at {stream}; they end five seconds after the process"
            )));
        }
        let lease = self.bus.lease_sign(name).await?;
        let is_fresh = |at: DateTime<Utc>| Utc::now() - at < LEASE;
        if let Some(lease) = lease.filter(|lease| lease.is_held && is_fresh(lease.written_at)) {
            let at = lease.written_at;
            return Err(runs(format!("its lease was renewed at {at}")));
        }
        Ok(durables)
    }
}

impl From<Durable> for RemovedConsumer {
    fn from(durable: Durable) -> Self {
        Self {
            pending: durable.num_pending,
            ack_pending: durable.num_ack_pending,
            acknowledged: durable.acknowledged(),
            stream: durable.stream,
        }
    }
}

async fn retire(bus: &Bus, stream: Option<&str>, name: &str) -> Result<u64, BusError> {
    match stream {
        Some(stream) => bus.retire_retries(stream, name).await,
        None => Ok(0),
    }
}

fn partly(name: &str, done: &[String], source: BusError) -> SubscribersError {
    match done.is_empty() {
        true => source.into(),
        false => SubscribersError::Partly {
            name: name.to_owned(),
            done: done.to_vec(),
            source,
        },
    }
}
