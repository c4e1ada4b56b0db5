//! Replays from the outside: asking for one, seeing how it does, pausing, resuming and cancelling it. Never
//! handles an event; the replicas of the subscriber do.
//!
//! ```no_run
//! use tidings::{Bus, ReplayPoint, ReplayRequest, Replays};
//!
//! # async fn example(bus: Bus) -> Result<(), Box<dyn std::error::Error>> {
//! let replays = Replays::over(&bus);
//! let two_days_ago = chrono::Utc::now() - chrono::TimeDelta::days(2);
//! let request = ReplayRequest::new(ReplayPoint::Time(two_days_ago)).names(["user.created"]);
//! let replay = replays.start("welcome-email", &request).await?;
//! let status = replays.find(replay.id).await?;
//! println!("{} of {} events are over", status.over(), status.replay.events());
//! # Ok(())
//! # }
//! ```

mod error;
mod resolve;
mod standstill;

use std::collections::BTreeMap;

use chrono::Utc;
use serde::Serialize;

use crate::{
    bus::{Bus, BusError},
    job::{Replay, ReplayProgress, ReplayRequest, ReplayState, ReplayTrouble},
    replaying::ReplayId,
    replica::status_subject,
};
pub use error::ReplayError;

/// The replays of a NATS server. Cheap to make; holds nothing but the connection.
#[derive(Debug, Clone)]
pub struct Replays {
    bus: Bus,
}

/// How a replay does.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ReplayStatus {
    /// What was asked for, and whether it runs.
    pub replay: Replay,
    /// How far it has come, as the replica that works at it tells, at most once a second; `None` when none has.
    pub progress: Option<ReplayProgress>,
    /// Why it does not go on though it should, if so: what its replica has written, or that nobody runs it,
    /// or that its stream does not answer.
    pub trouble: Option<ReplayTrouble>,
    /// What the server says of its consumers; none when it is over, or not begun, or its stream does not answer.
    pub consumers: Vec<ReplayConsumer>,
}

/// The consumer of a replay in one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReplayConsumer {
    /// The stream.
    pub stream: String,
    /// Messages that were never delivered, those beyond the range included.
    pub pending: u64,
    /// Deliveries that are not answered.
    pub in_hand: u64,
    /// Everything up to this sequence is over.
    pub floor: u64,
}

impl ReplayStatus {
    /// How many events of its range are over.
    #[must_use]
    pub fn over(&self) -> u64 {
        self.progress.as_ref().map_or(0, ReplayProgress::over)
    }
}

impl Replays {
    /// The replays that are reached over a connection.
    #[must_use]
    pub fn over(bus: &Bus) -> Self {
        Self { bus: bus.clone() }
    }

    /// Starts a replay: the replicas of the subscriber begin with it at once. Its range is fixed now, in each
    /// stream that has events for it, and what is published from now on is not in it.
    ///
    /// # Errors
    /// [`ReplayError`] names what speaks against it. Nothing is begun then.
    ///
    /// # Cancel safety
    /// When the future is dropped, the replay may or may not be begun: [`Replays::list`] tells.
    pub async fn start(
        &self,
        subscriber: &str,
        request: &ReplayRequest,
    ) -> Result<Replay, ReplayError> {
        let replay = self.plan(subscriber, request).await?;
        self.begin(replay).await
    }

    /// The replay that [`Replays::start`] would begin, with its ranges and how many events they have. Nothing is
    /// begun; [`Replays::begin`] does so.
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

    /// Begins what [`Replays::plan`] has given, with the ranges that it has.
    ///
    /// # Errors
    /// [`ReplayError::Unfinished`] when another replay of the subscriber was begun meanwhile, else
    /// [`ReplayError::Bus`]. Nothing is begun then.
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
            // Somebody has begun, changed or ended one at the same moment.
            seen = Some(self.refuse_another(subscriber).await?);
        }
        // Nobody else has its id: what is there is this one, if an answer was lost.
        self.bus.write_replay(&replay, 0).await?;
        Ok(replay)
    }

    /// The replays of one subscriber, or of all, the oldest first. What is over is kept for 90 days. An entry of the
    /// bucket that cannot be read is left out, and the log says which.
    ///
    /// # Errors
    /// [`ReplayError::Bus`].
    pub async fn list(&self, subscriber: Option<&str>) -> Result<Vec<Replay>, ReplayError> {
        let (mut replays, mut after) = (BTreeMap::new(), 0);
        while let Some(entry) = self.bus.next_replay(subscriber, after).await? {
            after = entry.revision;
            // One that changes meanwhile comes again, behind the others.
            replays.extend(entry.value.value().map(|replay| (replay.id, replay)));
        }
        Ok(replays.into_values().collect())
    }

    /// How one replay does. When nothing was heard of one that should run for five seconds, its replicas are asked,
    /// which takes up to two. A stream that does not answer, for instance without a leader, takes five.
    ///
    /// # Errors
    /// [`ReplayError::NoReplay`] when there is none of this id, else [`ReplayError::Bus`].
    pub async fn find(&self, id: ReplayId) -> Result<ReplayStatus, ReplayError> {
        let (_, replay) = self.entry(id).await?;
        let progress = self.bus.replay_progress(&replay).await?;
        let mut consumers = Vec::new();
        let mut unseen = None;
        for range in &replay.ranges {
            let standing = match self.bus.standing(&range.stream, &replay).await {
                // The entries were there: it is this stream that does not answer.
                Err(
                    error @ (BusError::Timeout { .. }
                    | BusError::NoResponders { .. }
                    | BusError::Broken { .. }
                    | BusError::Api { .. }),
                ) => {
                    unseen = Some(error.to_string());
                    continue;
                }
                standing => standing?,
            };
            consumers.extend(standing.map(|standing| ReplayConsumer {
                stream: range.stream.clone(),
                pending: standing.pending,
                in_hand: standing.in_hand,
                floor: standing.floor,
            }));
        }
        let progress = progress.map(|entry| entry.value);
        Ok(ReplayStatus {
            trouble: standstill::trouble(&self.bus, &replay, progress.as_ref(), unseen).await,
            replay,
            progress,
            consumers,
        })
    }

    /// Has a replay stand still: what is in hand ends, and nothing more is begun. One that is paused stays so.
    ///
    /// # Errors
    /// [`ReplayError::NoReplay`]; [`ReplayError::Over`] when it is over; else [`ReplayError::Bus`].
    pub async fn pause(&self, id: ReplayId) -> Result<Replay, ReplayError> {
        self.set(id, ReplayState::Paused).await
    }

    /// Has a paused replay go on where it is. One that runs stays so.
    ///
    /// # Errors
    /// As [`Replays::pause`].
    pub async fn resume(&self, id: ReplayId) -> Result<Replay, ReplayError> {
        self.set(id, ReplayState::Running).await
    }

    /// Ends a replay for good: nothing more is begun, and what of it waits among the retries is dropped when it is
    /// due. Handlers that run end. One that is cancelled stays so.
    ///
    /// # Errors
    /// As [`Replays::pause`].
    pub async fn cancel(&self, id: ReplayId) -> Result<Replay, ReplayError> {
        let replay = self.set(id, ReplayState::Cancelled).await?;
        // The replica that works deletes the consumers; when there is none, they would stay.
        let asking = status_subject(&replay.subscriber);
        if self.bus.ask_all(&asking).await?.is_empty() {
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
                return Err(ReplayError::Over { id, state });
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

    /// The first slot that no replay of a subscriber has which is not over.
    async fn free_slot(&self, subscriber: &str) -> Result<u32, ReplayError> {
        let mut taken = self.list(Some(subscriber)).await?;
        taken.retain(|replay| !replay.state.is_final());
        let is_free = |slot: &u32| taken.iter().all(|replay| replay.slot != *slot);
        Ok((1..=u32::MAX).find(is_free).unwrap_or(u32::MAX))
    }

    /// Unless all of a subscriber are over; gives up to which revision that is known.
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
