//! Delivering events to a test worker as part of a replay. Never a real one.

use std::sync::Arc;

use super::{TestWorker, context::replaying};
use crate::replaying::{Count, ReplayId};

impl<S: Send + Sync + 'static> TestWorker<S> {
    /// From now on what is delivered is part of a new replay, as [`Replays`](crate::Replays) makes one: handlers are
    /// told so, or skipped, what they publish is only counted, and `on_once` handles again what it has handled, once
    /// in this replay. Gives the replay's id.
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
    ///         true => Err(Failure::reject("nobody is welcomed twice")),
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

    /// The same with the handlers of this shadow, and no others.
    pub fn as_shadow(&mut self, shadow: &str) -> ReplayId {
        self.begin(Some(shadow), false)
    }

    /// The same as [`as_replay`](Self::as_replay), and what handlers publish is published.
    pub fn as_replay_with_follow_ups(&mut self) -> ReplayId {
        self.begin(None, true)
    }

    /// From now on what is delivered is no replay any more.
    pub fn as_live(&mut self) {
        self.replay = None;
    }

    /// How many events the handlers wanted to publish since the replay began, and that were only counted.
    #[must_use]
    pub fn suppressed(&self) -> u64 {
        let replay = self.replay.as_ref();
        replay.map_or(0, |replay| replay.course.count(Count::Suppressed))
    }

    fn begin(&mut self, shadow: Option<&str>, follow_ups: bool) -> ReplayId {
        let replay = replaying(self.subscriber.name(), shadow, follow_ups);
        let id = replay.mark.id;
        self.replay = Some(Arc::new(replay));
        id
    }
}
