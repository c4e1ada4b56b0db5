//! What this process knows of each replay, for whoever handles an event of it. Never reads or writes one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::replaying::{Course, ReplayId, Replaying};

/// By their ids. There are few: one for each replay of the subscriber that is remembered.
#[derive(Default)]
pub(in crate::worker) struct Courses(Mutex<HashMap<ReplayId, Arc<Course>>>);

impl Courses {
    pub(in crate::worker) fn of(&self, id: ReplayId) -> Arc<Course> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(id).or_default())
    }

    /// What comes from the retries counts where the replay is run, if that is here, and is dropped with it.
    pub(in crate::worker) fn join(&self, replay: &mut Arc<Replaying>) {
        if replay.is_retry {
            *replay = Arc::new(Replaying {
                course: self.of(replay.mark.id),
                ..(**replay).clone()
            });
        }
    }
}
