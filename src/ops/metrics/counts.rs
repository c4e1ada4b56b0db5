//! The counts of all subscribers and relays of a process: the observer that hands out one for each. Never counts
//! itself.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{relay::Relay, sheet::Sheet, subscriber::Subscriber};
use crate::observer::{Observation, Observer};

#[derive(Default)]
pub(super) struct Counts(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    subscribers: Vec<(String, Arc<Subscriber>)>,
    relays: Vec<(String, Arc<Relay>)>,
}

impl Counts {
    pub(super) fn write(&self, sheet: &mut Sheet) {
        let inner = self.inner();
        for (_, subscriber) in &inner.subscribers {
            subscriber.write(sheet);
        }
        for (_, relay) in &inner.relays {
            relay.write(sheet);
        }
    }

    /// The streams that relays have stored events in.
    pub(super) fn streams(&self) -> BTreeSet<String> {
        let inner = self.inner();
        let relays = inner.relays.iter();
        relays.flat_map(|(_, relay)| relay.streams()).collect()
    }

    /// The counts of a subscriber: one that begins again goes on with those that it had.
    pub(super) fn subscriber(&self, name: &str, events: &[&'static str]) -> Arc<Subscriber> {
        let new = || Subscriber::new(name, events);
        known(&mut self.inner().subscribers, name, new)
    }

    /// The counts of the relay of an outbox.
    pub(super) fn relay(&self, outbox: &str) -> Arc<Relay> {
        known(&mut self.inner().relays, outbox, || Relay::new(outbox))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn known<T>(all: &mut Vec<(String, Arc<T>)>, name: &str, new: impl FnOnce() -> T) -> Arc<T> {
    if let Some((_, known)) = all.iter().find(|(known, _)| known == name) {
        return Arc::clone(known);
    }
    let new = Arc::new(new());
    all.push((name.to_owned(), Arc::clone(&new)));
    new
}

impl Observer for Counts {
    /// Everything that is counted is told to the observer of a subscriber or of an outbox.
    fn observe(&self, _: &Observation<'_>) {}

    fn of_subscriber(&self, subscriber: &str, names: &[&'static str]) -> Option<Arc<dyn Observer>> {
        Some(self.subscriber(subscriber, names))
    }

    fn of_outbox(&self, schema: &str) -> Option<Arc<dyn Observer>> {
        Some(self.relay(schema))
    }
}
