//! Managing replays: starting, inspecting, pausing, resuming and cancelling them. Never handles an event; the instances
//! of the subscriber do.
//!
//! ```no_run
//! use tidings::{Bus, StartFrom, replays::{ReplayRequest, Replays}};
//!
//! # async fn example(bus: Bus) -> Result<(), Box<dyn std::error::Error>> {
//! let replays = Replays::new(&bus);
//! let two_days_ago = chrono::Utc::now() - chrono::TimeDelta::days(2);
//! let request = ReplayRequest::new(StartFrom::Time(two_days_ago)).names(["user.created"]);
//! let replay = replays.start("welcome-email", &request).await?;
//! let status = replays.find(replay.id).await?;
//! println!("{} of {} events are completed", status.completed(), status.replay.events());
//! # Ok(())
//! # }
//! ```

mod error;
mod resolve;
mod standstill;

use std::collections::BTreeMap;

use chrono::Utc;
use serde::Serialize;

use crate::nats::{Bus, BusError, subjects};
pub use crate::replay::{
    Rehearsal, RehearsedEvents, Replay, ReplayIssue, ReplayProgress, ReplayRange, ReplayRequest,
    ReplayState, StreamProgress, UndecodableEvent,
    tag::{ReplayId, ReplayIdError},
};
pub use error::ReplayError;

/// The replays of a NATS server. Cheap to create; holds only the connection.
#[derive(Debug, Clone)]
pub struct Replays {
    bus: Bus,
}

/// The status of a replay.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ReplayStatus {
    /// The request and the state.
    pub replay: Replay,
    /// The progress, as the instance that works on it reports, at most once a second; `None` before an instance has
    /// begun.
    pub progress: Option<ReplayProgress>,
    /// Why it does not continue although it should, if so: the issue that its instance has written, or no instance runs
    /// it, or its stream does not answer.
    pub issue: Option<ReplayIssue>,
    /// Its consumers, as the server reports them; empty when it has ended or not begun, or its stream does not answer.
    pub consumers: Vec<ReplayConsumer>,
}

/// The consumer of a replay in one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReplayConsumer {
    /// The stream.
    pub stream: String,
    /// Messages that were never delivered, including those beyond the range.
    pub pending: u64,
    /// Deliveries that are ack pending.
    pub in_flight: u64,
    /// Everything up to this sequence has ended.
    pub floor: u64,
}

impl ReplayStatus {
    /// How many events of its range have ended.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.progress.as_ref().map_or(0, ReplayProgress::completed)
    }
}

impl Replays {
    /// The replays that are reached over a connection.
    #[must_use]
    pub fn new(bus: &Bus) -> Self {
        Self { bus: bus.clone() }
    }

    /// Starts a replay: the instances of the subscriber begin it at once. Its range is fixed now, in each stream that
    /// has events for it; events that are published later are not part of it.
    ///
    /// # Errors
    /// [`ReplayError`] names what prevents it. Then nothing is started.
    ///
    /// # Cancel safety
    /// When the future is dropped, the replay may or may not have been started: [`Replays::list`] shows it.
    pub async fn start(
        &self,
        subscriber: &str,
        request: &ReplayRequest,
    ) -> Result<Replay, ReplayError> {
        let replay = self.plan(subscriber, request).await?;
        self.begin(replay).await
    }

    /// The replay that [`Replays::start`] would start, with its ranges and the number of their events. Nothing is
    /// started; [`Replays::begin`] does that.
    ///
    /// # Errors
    /// As for [`Replays::start`].
    pub async fn plan(
        &self,
        subscriber: &str,
        request: &ReplayRequest,
    ) -> Result<Replay, ReplayError> {
        if !request.force {
            self.refuse_another(subscriber).await?;
        }
        let ranges = resolve::ranges(&self.bus, subscriber, request).await?;
        let now = Utc::now();
        Ok(Replay {
            id: ReplayId::new(),
            subscriber: subscriber.to_owned(),
            request: request.clone(),
            ranges,
            created_at: now,
            state: ReplayState::Running,
            reason: None,
            state_at: now,
            slot: 1,
        })
    }

    /// Starts a replay that [`Replays::plan`] has returned, with the ranges that it has.
    ///
    /// # Errors
    /// [`ReplayError::Unfinished`] when another replay of the subscriber was started meanwhile, otherwise
    /// [`ReplayError::Bus`]. Then nothing is started.
    ///
    /// # Cancel safety
    /// As for [`Replays::start`].
    pub async fn begin(&self, mut replay: Replay) -> Result<Replay, ReplayError> {
        replay.slot = self.free_slot(&replay.subscriber).await?;
        let subscriber = &replay.subscriber;
        let mut seen = match replay.request.force {
            true => None,
            false => Some(self.refuse_another(subscriber).await?),
        };
        let like = replay.ranges.first().map_or("", |range| &range.stream);
        self.bus.open_state(like).await?;
        while let Some(revision) = seen {
            if self.bus.begin_replay(&replay, revision).await? {
                return Ok(replay);
            }
            // Another process has started, changed or ended a replay at the same moment.
            seen = Some(self.refuse_another(subscriber).await?);
        }
        // The id is unique: if an answer was lost, an existing entry is this replay.
        self.bus.write_replay(&replay, 0).await?;
        Ok(replay)
    }

    /// The replays of one subscriber, or of all, the oldest first. Ended replays are kept for 90 days. An entry of the
    /// bucket that cannot be read is left out, and logged.
    ///
    /// # Errors
    /// [`ReplayError::Bus`].
    pub async fn list(&self, subscriber: Option<&str>) -> Result<Vec<Replay>, ReplayError> {
        let (mut replays, mut after) = (BTreeMap::new(), 0);
        while let Some(entry) = self.bus.next_replay(subscriber, after).await? {
            after = entry.revision;
            // A replay that changes meanwhile is read again, after the others.
            replays.extend(entry.value.value().map(|replay| (replay.id, replay)));
        }
        Ok(replays.into_values().collect())
    }

    /// The status of one replay. When a replay that should run has reported nothing for five seconds, its instances are
    /// queried, which takes up to two seconds. A stream that does not answer, for instance without a leader, takes five
    /// seconds.
    ///
    /// # Errors
    /// [`ReplayError::NoReplay`] when there is no replay with this id, otherwise [`ReplayError::Bus`].
    pub async fn find(&self, id: ReplayId) -> Result<ReplayStatus, ReplayError> {
        let (_, replay) = self.entry(id).await?;
        let progress = self.bus.replay_progress(&replay).await?;
        let mut consumers = Vec::new();
        let mut unseen = None;
        for range in &replay.ranges {
            let state = match self.bus.consumer_state_of(&range.stream, &replay).await {
                // The entries could be read, so it is only this stream that does not answer.
                Err(
                    error @ (BusError::Timeout { .. }
                    | BusError::NoResponders { .. }
                    | BusError::Broken { .. }
                    | BusError::Refused { .. }),
                ) => {
                    unseen = Some(error.to_string());
                    continue;
                }
                state => state?,
            };
            consumers.extend(state.map(|state| ReplayConsumer {
                stream: range.stream.clone(),
                pending: state.pending,
                in_flight: state.in_flight,
                floor: state.floor,
            }));
        }
        let progress = progress.map(|entry| entry.value);
        Ok(ReplayStatus {
            issue: standstill::issue(&self.bus, &replay, progress.as_ref(), unseen).await,
            replay,
            progress,
            consumers,
        })
    }

    /// Pauses a replay: what is in flight ends, and no further event is begun. A paused replay stays paused.
    ///
    /// # Errors
    /// [`ReplayError::NoReplay`]; [`ReplayError::Ended`] when it has ended; otherwise [`ReplayError::Bus`].
    ///
    /// # Cancel safety
    /// When the future is dropped, the state may or may not have changed. Calling it again has the same result as one
    /// call.
    pub async fn pause(&self, id: ReplayId) -> Result<Replay, ReplayError> {
        self.set(id, ReplayState::Paused).await
    }

    /// Resumes a paused replay where it stopped. A running replay keeps running.
    ///
    /// # Errors
    /// As [`Replays::pause`].
    ///
    /// # Cancel safety
    /// As [`Replays::pause`].
    pub async fn resume(&self, id: ReplayId) -> Result<Replay, ReplayError> {
        self.set(id, ReplayState::Running).await
    }

    /// Ends a replay permanently: no further event is begun, and its events among the retries are dropped when they are
    /// due. Running handlers finish. A cancelled replay stays cancelled.
    ///
    /// # Errors
    /// As [`Replays::pause`].
    ///
    /// # Cancel safety
    /// As [`Replays::pause`]. The consumers of the replay may remain when no instance runs; calling it again deletes
    /// them.
    pub async fn cancel(&self, id: ReplayId) -> Result<Replay, ReplayError> {
        let replay = self.set(id, ReplayState::Cancelled).await?;
        // The instance that works on it deletes the consumers; without one, they would remain.
        let asking = subjects::status_of(&replay.subscriber);
        if self.bus.scatter_gather(&asking).await?.is_empty() {
            self.bus.delete_consumers_of(&replay).await?;
        }
        Ok(replay)
    }

    async fn set(&self, id: ReplayId, state: ReplayState) -> Result<Replay, ReplayError> {
        loop {
            let (revision, mut replay) = self.entry(id).await?;
            if replay.state == state {
                return Ok(replay);
            }
            if replay.state.is_final() {
                let state = replay.state;
                return Err(ReplayError::Ended { id, state });
            }
            replay.state = state;
            replay.reason = None;
            replay.state_at = Utc::now();
            if self.bus.write_replay(&replay, revision).await?.is_some() {
                return Ok(replay);
            }
        }
    }

    async fn entry(&self, id: ReplayId) -> Result<(u64, Replay), ReplayError> {
        match self.bus.replay(id).await? {
            Some(entry) => Ok((entry.revision, entry.value)),
            None => Err(ReplayError::NoReplay { id }),
        }
    }

    /// The first slot that no unfinished replay of a subscriber uses.
    async fn free_slot(&self, subscriber: &str) -> Result<u32, ReplayError> {
        let mut taken = self.list(Some(subscriber)).await?;
        taken.retain(|replay| !replay.state.is_final());
        let is_free = |slot: &u32| taken.iter().all(|replay| replay.slot != *slot);
        Ok((1..=u32::MAX).find(is_free).unwrap_or(u32::MAX))
    }

    /// Fails when a replay of a subscriber is unfinished; otherwise returns the revision up to which there is none.
    async fn refuse_another(&self, subscriber: &str) -> Result<u64, ReplayError> {
        let mut seen = 0;
        while let Some(entry) = self.bus.next_replay(Some(subscriber), seen).await? {
            seen = entry.revision;
            if let Some(replay) = entry.value.value()
                && !replay.state.is_final()
            {
                return Err(ReplayError::Unfinished {
                    subscriber: replay.subscriber,
                    id: replay.id,
                    state: replay.state,
                });
            }
        }
        Ok(seen)
    }
}
