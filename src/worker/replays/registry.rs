//! What this process knows of each replay, for the handling of its events. Never writes a replay.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    nats::Bus,
    replay::{
        Replay, ReplayState,
        tag::{ReplayCounters, ReplayId, Replaying},
    },
};

/// By id. There are few: one for each stored replay of the subscriber.
#[derive(Default)]
pub(in crate::worker) struct ReplayRegistry(Mutex<Known>);

#[derive(Default)]
struct Known {
    counters: HashMap<ReplayId, Arc<ReplayCounters>>,
    /// The replays whose entries were read.
    read: HashSet<ReplayId>,
}

impl ReplayRegistry {
    pub(in crate::worker) fn of(&self, id: ReplayId) -> Arc<ReplayCounters> {
        Arc::clone(self.known().counters.entry(id).or_default())
    }

    /// Notes the entry of a replay that was read.
    pub(super) fn note(&self, replay: &Replay) {
        if replay.state == ReplayState::Cancelled {
            self.of(replay.id).cancel();
        }
        self.known().read.insert(replay.id);
    }

    /// Counts a retried event where its replay runs, if that is here, and drops it with the replay. When the entry of
    /// the replay was not read yet, it is read to find out whether the replay was cancelled.
    pub(in crate::worker) async fn join(&self, bus: &Bus, replay: &mut Arc<Replaying>) {
        if !replay.is_retry {
            return;
        }
        let id = replay.tag.id;
        if !self.known().read.contains(&id) {
            match bus.replay(id).await {
                Ok(Some(entry)) => self.note(&entry.value),
                // The entry no longer exists.
                Ok(None) => drop(self.known().read.insert(id)),
                Err(error) => {
                    tracing::debug!(replay = %id, %error, "replay state unknown: it may have been cancelled");
                }
            }
        }
        *replay = Arc::new(Replaying {
            counters: self.of(id),
            ..(**replay).clone()
        });
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
