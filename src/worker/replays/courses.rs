//! What this process knows of each replay, for whoever handles an event of it. Never writes one.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    bus::Bus,
    job::{Replay, ReplayState},
    replaying::{Course, ReplayId, Replaying},
};

/// By their ids. There are few: one for each replay of the subscriber that is remembered.
#[derive(Default)]
pub(in crate::worker) struct Courses(Mutex<Known>);

#[derive(Default)]
struct Known {
    courses: HashMap<ReplayId, Arc<Course>>,
    /// Those whose entries were read.
    read: HashSet<ReplayId>,
}

impl Courses {
    pub(in crate::worker) fn of(&self, id: ReplayId) -> Arc<Course> {
        Arc::clone(self.known().courses.entry(id).or_default())
    }

    /// The entry of a replay was read.
    pub(super) fn note(&self, replay: &Replay) {
        if replay.state == ReplayState::Cancelled {
            self.of(replay.id).cancel();
        }
        self.known().read.insert(replay.id);
    }

    /// What comes from the retries counts where the replay is run, if that is here, and is dropped with it. Of a replay
    /// that nobody has read yet it is asked whether it was cancelled.
    pub(in crate::worker) async fn join(&self, bus: &Bus, replay: &mut Arc<Replaying>) {
        if !replay.is_retry {
            return;
        }
        let id = replay.mark.id;
        if !self.known().read.contains(&id) {
            match bus.replay(id).await {
                Ok(Some(entry)) => self.note(&entry.value),
                // Nobody has it any more.
                Ok(None) => drop(self.known().read.insert(id)),
                Err(error) => {
                    tracing::debug!(replay = %id, %error, "replay state unknown: it may have been cancelled");
                }
            }
        }
        *replay = Arc::new(Replaying {
            course: self.of(id),
            ..(**replay).clone()
        });
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
