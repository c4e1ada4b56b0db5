//! Which delivery may run next: one lane a key when order is wanted, and a bound on how many run at
//! once. A plain data structure; it never waits and never runs anything.

use std::collections::{HashMap, VecDeque};

/// Deliveries that wait or run. An item without a key has no lane and waits for a place only.
pub(crate) struct Lanes<T> {
    limit: usize,
    running: usize,
    /// What waits for a place; the head of its lane when it has a key.
    ready: VecDeque<(Option<String>, T)>,
    /// A lane exists while its head is ready or running; the queue holds what is behind the head.
    lanes: HashMap<String, VecDeque<T>>,
}

impl<T> Lanes<T> {
    /// At most `limit` run at once.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            running: 0,
            ready: VecDeque::new(),
            lanes: HashMap::new(),
        }
    }

    /// Takes an item in, at the end of its lane.
    pub(crate) fn admit(&mut self, key: Option<String>, item: T) {
        if let Some(name) = &key {
            if let Some(lane) = self.lanes.get_mut(name) {
                lane.push_back(item);
                return;
            }
            self.lanes.insert(name.clone(), VecDeque::new());
        }
        self.ready.push_back((key, item));
    }

    /// The next item to run, if one is ready and a place is free. Say when it is [finished].
    ///
    /// [finished]: Lanes::finish
    pub(crate) fn start(&mut self) -> Option<(Option<String>, T)> {
        if self.running == self.limit {
            return None;
        }
        let started = self.ready.pop_front()?;
        self.running += 1;
        Some(started)
    }

    /// The running item of this lane is done: the next one of the lane is ready.
    pub(crate) fn finish(&mut self, key: Option<&str>) {
        self.running -= 1;
        let Some(key) = key else { return };
        match self.lanes.get_mut(key).and_then(VecDeque::pop_front) {
            Some(next) => self.ready.push_back((Some(key.to_owned()), next)),
            None => drop(self.lanes.remove(key)),
        }
    }

    /// Everything that waits.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &T> {
        let ready = self.ready.iter().map(|(_, item)| item);
        ready.chain(self.lanes.values().flatten())
    }

    /// Gives up everything that waits.
    pub(crate) fn abandon(&mut self) -> Vec<T> {
        let ready = std::mem::take(&mut self.ready);
        let mut items: Vec<T> = ready.into_iter().map(|(_, item)| item).collect();
        for lane in self.lanes.values_mut() {
            items.extend(lane.drain(..));
        }
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever comes and ends in whatever order: one running at most per key, a lane in order,
        /// the limit kept, nothing lost.
        #[test]
        fn lanes_keep_order_and_lose_nothing(
            keys in proptest::collection::vec(proptest::option::of(0u8..4), 1..60),
            endings in proptest::collection::vec(any::<prop::sample::Index>(), 200),
            limit in 1usize..6,
        ) {
            let mut lanes = Lanes::new(limit);
            let mut arriving = keys.iter().map(|k| k.map(|k| k.to_string())).enumerate();
            let mut running: Vec<(Option<String>, usize)> = Vec::new();
            let mut done: Vec<(Option<String>, usize)> = Vec::new();
            let mut endings = endings.into_iter();
            while done.len() < keys.len() {
                if let Some((item, key)) = arriving.next() {
                    lanes.admit(key, item);
                }
                while let Some((key, item)) = lanes.start() {
                    prop_assert!(key.is_none() || running.iter().all(|(other, _)| *other != key));
                    running.push((key, item));
                }
                prop_assert!(running.len() <= limit);
                if let (Some(ending), false) = (endings.next(), running.is_empty()) {
                    let (key, item) = running.swap_remove(ending.index(running.len()));
                    lanes.finish(key.as_deref());
                    done.push((key, item));
                }
            }
            for key in 0..4u8 {
                let of_key: Vec<_> = done.iter().filter(|(k, _)| *k == Some(key.to_string())).map(|(_, i)| *i).collect();
                prop_assert!(of_key.is_sorted());
            }
            prop_assert_eq!(lanes.waiting().count(), 0);
        }
    }

    #[test]
    fn what_waits_can_be_given_up() {
        let mut lanes = Lanes::new(1);
        for item in 0..4 {
            lanes.admit(Some("k".into()), item);
        }
        assert_eq!(lanes.start(), Some((Some("k".into()), 0)));
        assert_eq!(lanes.waiting().count(), 3);
        assert_eq!(lanes.abandon().len(), 3);
        lanes.finish(Some("k"));
        assert_eq!(lanes.start(), None);
    }
}
