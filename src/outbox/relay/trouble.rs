//! What hinders the relay, said loudly: in the log when it begins, again and again while it lasts, and when
//! it is over; and in the status, through the checkpoints. Never decides what to do about it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::Utc;

use crate::outbox::status::StoredTrouble;

/// How often what lasts is said again.
pub(super) const SAY_AGAIN: Duration = Duration::from_secs(10);
/// The place of what hinders all of the relay.
pub(super) const RELAY: &str = "relay";

/// What hinders a relay now, by place. Clones share it; it outlives a tenure.
#[derive(Debug, Clone, Default)]
pub(super) struct Troubles(Arc<Mutex<BTreeMap<String, StoredTrouble>>>);

impl Troubles {
    /// Something is wrong at a place. What was wrong there already goes on, maybe with another cause.
    pub(super) fn begin(&self, place: &str, cause: &str, cure: &str) {
        let mut troubles = self.lock();
        if let Some(known) = troubles.get_mut(place) {
            cause.clone_into(&mut known.cause);
            cure.clone_into(&mut known.cure);
            return;
        }
        let trouble = StoredTrouble {
            since: Utc::now(),
            cause: cause.to_owned(),
            cure: cure.to_owned(),
        };
        tracing::error!(place, cause, cure, "events are held up");
        troubles.insert(place.to_owned(), trouble);
    }

    /// Something that was wrong before this process was: what is known of it already stays.
    pub(super) fn recall(&self, place: &str, cause: &str, cure: &str) {
        if !self.lock().contains_key(place) {
            self.begin(place, cause, cure);
        }
    }

    /// A place is well again.
    pub(super) fn end(&self, place: &str) {
        if let Some(trouble) = self.lock().remove(place) {
            let lasted_s = (Utc::now() - trouble.since).num_seconds();
            tracing::info!(place, lasted_s, "events flow again");
        }
    }

    /// All places are well again but those that are still waited for.
    pub(super) fn end_all_but(&self, lasting: impl Fn(&str) -> bool) {
        let places: Vec<String> = self.lock().keys().cloned().collect();
        for place in places.iter().filter(|place| !lasting(place)) {
            self.end(place);
        }
    }

    /// Says all of it again.
    pub(super) fn say(&self) {
        for (place, StoredTrouble { since, cause, cure }) in &*self.lock() {
            let for_s = (Utc::now() - *since).num_seconds();
            tracing::error!(place, for_s, cause, cure, "events are still held up");
        }
    }

    /// For the status.
    pub(super) fn text(&self) -> Result<String, sqlx::Error> {
        serde_json::to_string(&*self.lock()).map_err(|error| sqlx::Error::Encode(error.into()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, StoredTrouble>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_keeps_its_beginning_and_gets_the_new_cause() {
        let troubles = Troubles::default();
        troubles.begin("stream A", "full", "purge");
        let since = troubles.lock()["stream A"].since;
        troubles.begin("stream A", "sealed", "delete");
        assert_eq!(troubles.lock()["stream A"].since, since);
        assert_eq!(troubles.lock()["stream A"].cause, "sealed");
        troubles.end_all_but(|place| place == "stream A");
        assert_eq!(troubles.lock().len(), 1);
        troubles.end("stream A");
        assert_eq!(troubles.text().unwrap(), "{}");
    }
}
