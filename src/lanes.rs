//! Which delivery may run next: one lane a key when order is wanted, live events before replays, and a
//! bound on how many run at once. A plain data structure; it never waits and never runs anything.

use std::collections::{HashMap, VecDeque};

/// While both wait, so many live events are started for each replay.
const LIVE_FOR_A_REPLAY: usize = 7;

/// Deliveries that wait or run. An item without a key has no lane and waits for a place only.
pub(crate) struct Lanes<T> {
    limit: usize,
    running: usize,
    /// What waits for a place; the head of its lane when it has a key.
    live: VecDeque<(Option<String>, T)>,
    replays: VecDeque<(Option<String>, T)>,
    /// How many live events were started since a replay was, while one waited.
    passed: usize,
    /// A lane exists while its head is ready or running; the queue holds what is behind the head.
    lanes: HashMap<String, VecDeque<(Priority, T)>>,
}

/// What is started first. It chooses between lanes; within one, the order stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Priority {
    Live,
    /// A replay or a redrive: when no live event is ready, and every eighth time in any case.
    Replay,
}

impl<T> Lanes<T> {
    /// At most `limit` run at once.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            running: 0,
            live: VecDeque::new(),
            replays: VecDeque::new(),
            passed: 0,
            lanes: HashMap::new(),
        }
    }

    /// Takes a live item in, at the end of its lane.
    pub(crate) fn admit(&mut self, key: Option<String>, item: T) {
        self.admit_as(Priority::Live, key, item);
    }

    /// Takes an item in, at the end of its lane.
    pub(crate) fn admit_as(&mut self, priority: Priority, key: Option<String>, item: T) {
        if let Some(name) = &key {
            if let Some(lane) = self.lanes.get_mut(name) {
                lane.push_back((priority, item));
                return;
            }
            self.lanes.insert(name.clone(), VecDeque::new());
        }
        self.is_ready(priority, key, item);
    }

    /// The next item to run, if one is ready and a place is free. Say when it is [finished].
    ///
    /// [finished]: Lanes::finish
    pub(crate) fn start(&mut self) -> Option<(Option<String>, T)> {
        if self.running == self.limit {
            return None;
        }
        let started = self.pick()?;
        self.running += 1;
        Some(started)
    }

    /// The running item of this lane is done: the next one of the lane is ready.
    pub(crate) fn finish(&mut self, key: Option<&str>) {
        self.running -= 1;
        let Some(key) = key else { return };
        match self.lanes.get_mut(key).and_then(VecDeque::pop_front) {
            Some((priority, next)) => self.is_ready(priority, Some(key.to_owned()), next),
            None => drop(self.lanes.remove(key)),
        }
    }

    /// The running item of this lane rests: its place is free, and its lane waits until it runs [`again`].
    ///
    /// [`again`]: Lanes::again
    pub(crate) fn rest(&mut self) {
        self.running -= 1;
    }

    /// An item that rested is ready.
    pub(crate) fn again(&mut self, key: Option<String>, item: T) {
        self.is_ready(Priority::Live, key, item);
    }

    /// Everything that waits.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &T> {
        let ready = self.live.iter().chain(&self.replays).map(|(_, item)| item);
        ready.chain(self.lanes.values().flatten().map(|(_, item)| item))
    }

    /// The keys with the most items behind the one that is ready or runs, the longest first; `most` of them at
    /// most.
    pub(crate) fn hottest(&self, most: usize) -> Vec<(&str, usize)> {
        let queued = self.lanes.iter().filter(|(_, lane)| !lane.is_empty());
        let mut hottest: Vec<_> = queued.map(|(key, lane)| (&**key, lane.len())).collect();
        hottest.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        hottest.truncate(most);
        hottest
    }

    /// Gives up everything that waits.
    pub(crate) fn abandon(&mut self) -> Vec<T> {
        let ready = self.live.drain(..).chain(self.replays.drain(..));
        let mut items: Vec<T> = ready.map(|(_, item)| item).collect();
        for lane in self.lanes.values_mut() {
            items.extend(lane.drain(..).map(|(_, item)| item));
        }
        items
    }

    fn is_ready(&mut self, priority: Priority, key: Option<String>, item: T) {
        match priority {
            Priority::Live => self.live.push_back((key, item)),
            Priority::Replay => self.replays.push_back((key, item)),
        }
    }

    fn pick(&mut self) -> Option<(Option<String>, T)> {
        if self.replays.is_empty() {
            self.passed = 0;
            return self.live.pop_front();
        }
        if self.live.is_empty() || self.passed == LIVE_FOR_A_REPLAY {
            self.passed = 0;
            return self.replays.pop_front();
        }
        self.passed += 1;
        self.live.pop_front()
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
            keys in proptest::collection::vec((any::<bool>(), proptest::option::of(0u8..4)), 1..60),
            endings in proptest::collection::vec(any::<prop::sample::Index>(), 200),
            limit in 1usize..6,
        ) {
            let mut lanes = Lanes::new(limit);
            let mut arriving = keys.iter().map(|(is_replay, k)| (*is_replay, k.map(|k| k.to_string()))).enumerate();
            let mut running: Vec<(Option<String>, usize)> = Vec::new();
            let mut done: Vec<(Option<String>, usize)> = Vec::new();
            let mut endings = endings.into_iter();
            while done.len() < keys.len() {
                if let Some((item, (is_replay, key))) = arriving.next() {
                    let priority = if is_replay { Priority::Replay } else { Priority::Live };
                    lanes.admit_as(priority, key, item);
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

    #[test]
    fn live_events_go_first_and_replays_do_not_starve() {
        let mut lanes = Lanes::new(100);
        for item in 0..20 {
            lanes.admit_as(Priority::Replay, None, ("replay", item));
            lanes.admit(None, ("live", item));
        }
        let started: Vec<_> = std::iter::from_fn(|| lanes.start())
            .map(|(_, (kind, _))| kind)
            .collect();
        let replays: Vec<_> = (0..24).filter(|at| started[*at] == "replay").collect();
        assert_eq!(replays, [7, 15, 22, 23], "no live event is left after 20");
        // A replay that comes after many live ones has no claim from before it came.
        for item in 0..20 {
            lanes.admit(None, ("live", item));
            assert!(lanes.start().is_some());
            lanes.finish(None);
        }
        lanes.admit_as(Priority::Replay, None, ("replay", 0));
        lanes.admit(None, ("live", 0));
        assert_eq!(lanes.start(), Some((None, ("live", 0))));
    }

    #[test]
    fn a_replay_keeps_its_place_within_its_lane() {
        let mut lanes = Lanes::new(1);
        let key = || Some("k".to_owned());
        lanes.admit_as(Priority::Replay, key(), 1);
        lanes.admit(key(), 2);
        lanes.admit_as(Priority::Replay, key(), 3);
        for item in 1..=3 {
            assert_eq!(lanes.start(), Some((key(), item)));
            lanes.finish(Some("k"));
        }
    }

    #[test]
    fn the_hottest_keys_are_those_with_the_longest_lanes() {
        let mut lanes = Lanes::new(1);
        for (key, items) in [("cold", 1), ("warm", 3), ("hot", 9), ("tepid", 2)] {
            for item in 0..items {
                lanes.admit(Some(key.into()), item);
            }
        }
        assert_eq!(lanes.hottest(2), [("hot", 8), ("warm", 2)]);
        assert_eq!(
            lanes.hottest(9).len(),
            3,
            "nothing waits behind a head alone"
        );
    }
}
