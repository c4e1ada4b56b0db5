//! Publishing to the stream without an outbox; starting replays and waiting for them.

use std::time::Instant;

use tidings::{
    EventPublisher, StartFrom,
    event::IntoEnvelope,
    replays::{Replay, ReplayError, ReplayId, ReplayRequest, ReplayState, ReplayStatus, Replays},
};

use super::{DEADLINE, Database, User, World, eventually};

/// A replay of all events.
pub fn everything() -> ReplayRequest {
    ReplayRequest::new(StartFrom::Beginning)
}

impl<DB: Database> World<DB> {
    pub async fn publish(&self, events: impl IntoIterator<Item = impl IntoEnvelope>) {
        let publisher = EventPublisher::new(&self.bus);
        for event in events {
            publisher.publish(event).await.expect("it is stored");
        }
    }

    pub async fn publish_users(&self, ids: impl IntoIterator<Item = impl AsRef<str>>) {
        for id in ids {
            self.publish([&User::new(id.as_ref())]).await;
        }
    }

    pub fn replays(&self) -> Replays {
        Replays::new(&self.bus)
    }

    pub async fn replay(&self, subscriber: &str, request: &ReplayRequest) -> Replay {
        let replays = self.replays();
        let end = Instant::now() + DEADLINE;
        loop {
            match replays.start(subscriber, request).await {
                // A worker that has just started does not answer yet.
                Err(ReplayError::NoInstance { .. }) if Instant::now() < end => {}
                started => return started.expect("a replay"),
            }
        }
    }

    pub async fn replay_status(&self, id: ReplayId) -> ReplayStatus {
        self.replays().find(id).await.expect("a replay")
    }

    /// Waits until a replay has this state.
    pub async fn replay_is(&self, id: ReplayId, state: ReplayState) -> ReplayStatus {
        eventually(&format!("the replay is {}", state.as_str()), || async {
            let now = self.replay_status(id).await.replay;
            assert!(
                now.state == state || !now.state.is_final(),
                "{:?}: {:?}",
                now.state,
                now.reason
            );
            now.state == state
        })
        .await;
        self.replay_status(id).await
    }

    /// Starts a replay, and waits until it is done.
    pub async fn replayed(&self, subscriber: &str, request: &ReplayRequest) -> ReplayStatus {
        let replay = self.replay(subscriber, request).await;
        self.replay_is(replay.id, ReplayState::Done).await
    }

    /// Waits until the server has no consumer of a replay any more.
    pub async fn nothing_is_left_of(&self, id: ReplayId) {
        eventually("its consumers are deleted", || async {
            self.replay_status(id).await.consumers.is_empty()
        })
        .await;
    }
}
