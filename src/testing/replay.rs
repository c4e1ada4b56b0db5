//! Delivering events to a test worker as part of a replay. Never runs a real one.

use std::sync::Arc;

use super::{TestWorker, context::replaying};
use crate::replay::tag::{Count, ReplayId};

impl<S: Send + Sync + 'static> TestWorker<S> {
    /// Makes every later delivery part of a new replay, like one that [`Replays`](crate::replays::Replays) starts. Handlers see
    /// the replay, or are skipped. Events that they publish are only counted. `on_transactional` handles again what it has
    /// handled before, once in this replay. Returns the replay's id.
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    /// use tidings::{Context, Event, EventSubscriber, Failure, testing::TestWorker};
    ///
    /// #[derive(Serialize, Deserialize, Event)]
    /// #[event(name = "user.created", version = 1, key = id)]
    /// struct UserCreated {
    ///     id: u32,
    /// }
    ///
    /// async fn welcome(_: UserCreated, cx: Context<()>) -> Result<(), Failure> {
    ///     match cx.is_replay() {
    ///         true => Err(Failure::reject("no user is welcomed twice")),
    ///         false => Ok(()),
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let mut worker = TestWorker::new(EventSubscriber::durable("welcome").on(welcome), ());
    /// assert!(worker.deliver(&UserCreated { id: 1 }).await.dead_letter().is_none());
    /// worker.as_replay();
    /// assert!(worker.deliver(&UserCreated { id: 1 }).await.dead_letter().is_some());
    /// # }
    /// ```
    pub fn as_replay(&mut self) -> ReplayId {
        self.begin(None, false)
    }

    /// As [`as_replay`](Self::as_replay), with the handlers of this shadow and no others.
    pub fn as_shadow(&mut self, shadow: &str) -> ReplayId {
        self.begin(Some(shadow), false)
    }

    /// As [`as_replay`](Self::as_replay), and the events that handlers publish are published.
    pub fn as_replay_with_follow_ups(&mut self) -> ReplayId {
        self.begin(None, true)
    }

    /// Ends the replay: later deliveries are live.
    pub fn as_live(&mut self) {
        self.replay = None;
    }

    /// How many events the handlers have tried to publish since the replay began that were only counted.
    #[must_use]
    pub fn suppressed(&self) -> u64 {
        let replay = self.replay.as_ref();
        replay.map_or(0, |replay| replay.counters.count(Count::Suppressed))
    }

    fn begin(&mut self, shadow: Option<&str>, follow_ups: bool) -> ReplayId {
        let replay = replaying(self.subscriber.name(), shadow, follow_ups);
        let id = replay.tag.id;
        self.replay = Some(Arc::new(replay));
        id
    }
}
