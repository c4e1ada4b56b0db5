//! The replays of subscribers, as far as they affect the status of a subscriber. Never begins one.

use chrono::{TimeDelta, Utc};

use super::{SubscriberState, Subscribers};
use crate::{
    nats::{Bus, BusError},
    replay::Replay,
};

/// How long a replay may report nothing.
const SILENCE: TimeDelta = TimeDelta::seconds(5);

impl Subscribers {
    /// The replays that should run but do not: their instance reports why, or there is no instance.
    pub(super) async fn stuck_replays(
        &self,
        state: &SubscriberState,
        are_asked: bool,
        running: &Result<Vec<Replay>, String>,
    ) -> Vec<(String, String)> {
        let running = running.iter().flatten();
        let running = running.filter(|replay| replay.subscriber == state.name);
        let mut stuck = Vec::new();
        for replay in running {
            let progress = self.bus.replay_progress(replay).await.ok().flatten();
            let progress = progress.map(|written| written.value);
            let heard_at = progress
                .as_ref()
                .map_or(replay.state_at, |progress| progress.at);
            let is_silent = Utc::now() - heard_at.max(replay.state_at) > SILENCE;
            let written = progress.and_then(|progress| progress.issue);
            let why = match written {
                Some(issue) => Some(issue.why),
                None if is_silent && are_asked && state.instances.is_empty() => Some(
                    "no instance answers; an instance that starts continues the replay".to_owned(),
                ),
                None => None,
            };
            stuck.extend(why.map(|why| (replay.id.to_string(), why)));
        }
        stuck
    }
}

/// The unfinished replays of one subscriber, or of all.
pub(super) async fn unfinished(
    bus: &Bus,
    subscriber: Option<&str>,
) -> Result<Vec<Replay>, BusError> {
    let (mut replays, mut after) = (Vec::new(), 0);
    while let Some(entry) = bus.next_replay(subscriber, after).await? {
        after = entry.revision;
        replays.extend(
            entry
                .value
                .value()
                .filter(|replay: &Replay| !replay.state.is_final()),
        );
    }
    Ok(replays)
}
