//! Which delivery may run next: one lane per key when events are ordered by key, live events before replays, and a
//! limit on how many run at once. A plain data structure; it never waits and never runs anything.

use std::collections::{HashMap, VecDeque};

/// While live events run too, replays get one in this many concurrency slots, and one in this many starts.
const REPLAY_SHARE: usize = 8;

/// Deliveries that wait or run. An item without a key has no lane and waits only for a concurrency slot.
pub(crate) struct Lanes<T> {
    limit: usize,
    running: usize,
    replays_running: usize,
    /// Items that wait for a concurrency slot; if they have a key, they are the heads of their lanes.
    live: VecDeque<(Ticket, T)>,
    replays: VecDeque<(Ticket, T)>,
    /// How many live events were started since the last replay event, while a replay event waited.
    passed: usize,
    /// A lane exists while its head is ready, runs or rests.
    lanes: HashMap<String, Lane<T>>,
}

struct Lane<T> {
    behind: VecDeque<(Priority, T)>,
    /// The head has rested, so it is unknown when it will be done.
    is_held_up: bool,
}

/// The lane that an item belongs to, and its priority.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) key: Option<String>,
    pub(crate) priority: Priority,
}

/// What is started first. The priority chooses between lanes; within a lane the order is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Priority {
    Live,
    /// A replay or a redrive.
    Replay,
}

impl<T> Lanes<T> {
    /// At most `limit` items run at once.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            running: 0,
            replays_running: 0,
            live: VecDeque::new(),
            replays: VecDeque::new(),
            passed: 0,
            lanes: HashMap::new(),
        }
    }

    /// Changes how many items run at once. When more run, no other one starts until they have ended.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Adds an item at the end of its lane.
    pub(crate) fn admit(&mut self, ticket: Ticket, item: T) {
        if let Some(key) = &ticket.key {
            if let Some(lane) = self.lanes.get_mut(key) {
                lane.behind.push_back((ticket.priority, item));
                return;
            }
            let lane = Lane {
                behind: VecDeque::new(),
                is_held_up: false,
            };
            self.lanes.insert(key.clone(), lane);
        }
        self.again(ticket, item);
    }

    /// The next item to run, if one is ready and a concurrency slot is free. Report when it is [finished].
    ///
    /// [finished]: Lanes::finish
    pub(crate) fn start(&mut self) -> Option<(Ticket, T)> {
        if self.running >= self.limit {
            return None;
        }
        let started = self.pick()?;
        self.running += 1;
        if started.0.priority == Priority::Replay {
            self.replays_running += 1;
        }
        Some(started)
    }

    /// How many items run: started, and neither finished nor resting.
    pub(crate) fn running(&self) -> usize {
        self.running
    }

    /// The running item of this lane is done: the next item of the lane becomes ready.
    pub(crate) fn finish(&mut self, ticket: Ticket) {
        self.rest(&ticket);
        let Some(key) = ticket.key else { return };
        let lane = self.lanes.get_mut(&key);
        let next = lane.and_then(|lane| {
            lane.is_held_up = false;
            lane.behind.pop_front()
        });
        match next {
            Some((priority, next)) => {
                let key = Some(key);
                self.again(Ticket { key, priority }, next);
            }
            None => drop(self.lanes.remove(&key)),
        }
    }

    /// The running item of this lane rests: its slot is free, and its lane waits until the item runs [`again`].
    ///
    /// [`again`]: Lanes::again
    pub(crate) fn rest(&mut self, ticket: &Ticket) {
        self.running -= 1;
        if ticket.priority == Priority::Replay {
            self.replays_running -= 1;
        }
    }

    /// Lets the items behind the running item that match go first, in their order; the other items stay behind it.
    /// Returns the running item when none matches.
    pub(crate) fn give_way(
        &mut self,
        ticket: Ticket,
        item: T,
        goes_first: impl Fn(&T) -> bool,
    ) -> Option<(Ticket, T)> {
        let lane = ticket.key.as_ref().and_then(|key| self.lanes.get_mut(key));
        let Some(lane) = lane else {
            return Some((ticket, item));
        };
        let behind = std::mem::take(&mut lane.behind);
        let (mut first, others): (VecDeque<_>, VecDeque<_>) =
            behind.into_iter().partition(|(_, item)| goes_first(item));
        let Some((priority, next)) = first.pop_front() else {
            lane.behind = others;
            return Some((ticket, item));
        };
        first.push_back((ticket.priority, item));
        first.extend(others);
        lane.behind = first;
        lane.is_held_up = false;
        self.rest(&ticket);
        let key = ticket.key;
        self.again(Ticket { key, priority }, next);
        None
    }

    /// Whether the head of an item's lane has rested, and is not [finished](Lanes::finish).
    pub(crate) fn is_held_up(&self, ticket: &Ticket) -> bool {
        self.lane(ticket).is_some_and(|lane| lane.is_held_up)
    }

    /// Holds a lane up until its head is [finished](Lanes::finish). Returns whether it was not held up before.
    pub(crate) fn hold_up(&mut self, ticket: &Ticket) -> bool {
        let lane = ticket.key.as_ref().and_then(|key| self.lanes.get_mut(key));
        lane.is_some_and(|lane| !std::mem::replace(&mut lane.is_held_up, true))
    }

    /// The items that wait behind the head of a lane.
    pub(crate) fn behind(&self, ticket: &Ticket) -> impl Iterator<Item = &T> {
        let behind = self.lane(ticket).into_iter().flat_map(|lane| &lane.behind);
        behind.map(|(_, item)| item)
    }

    fn lane(&self, ticket: &Ticket) -> Option<&Lane<T>> {
        self.lanes.get(ticket.key.as_ref()?)
    }

    /// Makes an item that rested ready.
    pub(crate) fn again(&mut self, ticket: Ticket, item: T) {
        match ticket.priority {
            Priority::Live => self.live.push_back((ticket, item)),
            Priority::Replay => self.replays.push_back((ticket, item)),
        }
    }

    /// Whether an item is ready and waits only for a concurrency slot.
    pub(crate) fn is_ready(&self) -> bool {
        !self.live.is_empty() || !self.replays.is_empty()
    }

    /// All waiting items.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &T> {
        let ready = self.live.iter().chain(&self.replays).map(|(_, item)| item);
        let behind = self.lanes.values().flat_map(|lane| &lane.behind);
        ready.chain(behind.map(|(_, item)| item))
    }

    /// The keys with the most items behind their head, the longest lane first; at most `most` keys.
    pub(crate) fn hottest(&self, most: usize) -> Vec<(&str, usize)> {
        let lanes = self.lanes.iter();
        let queued = lanes.filter(|(_, lane)| !lane.behind.is_empty());
        let waiting = queued.map(|(key, lane)| (&**key, lane.behind.len()));
        let mut hottest: Vec<_> = waiting.collect();
        hottest.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        hottest.truncate(most);
        hottest
    }

    /// Removes and returns all waiting items.
    pub(crate) fn abandon(&mut self) -> Vec<T> {
        let ready = self.live.drain(..).chain(self.replays.drain(..));
        let mut items: Vec<T> = ready.map(|(_, item)| item).collect();
        for lane in self.lanes.values_mut() {
            items.extend(lane.behind.drain(..).map(|(_, item)| item));
        }
        items
    }

    fn pick(&mut self) -> Option<(Ticket, T)> {
        if self.replays.is_empty() {
            self.passed = 0;
            return self.live.pop_front();
        }
        // When a live event ends, its slot is free until the next one is admitted. If replays took those slots, they
        // would soon have all of them.
        let is_idle = self.running == self.replays_running && self.live.is_empty();
        let has_share = self.replays_running < (self.limit / REPLAY_SHARE).max(1);
        let is_share_due = self.live.is_empty() || self.passed + 1 >= REPLAY_SHARE;
        if is_idle || has_share && is_share_due {
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

    fn ticket(is_replay: bool, key: Option<String>) -> Ticket {
        let priority = if is_replay {
            Priority::Replay
        } else {
            Priority::Live
        };
        Ticket { key, priority }
    }

    fn live(key: &str) -> Ticket {
        ticket(false, Some(key.to_owned()))
    }

    #[test]
    fn a_lower_limit_waits_until_enough_has_ended() {
        let mut lanes = Lanes::new(3);
        for n in 0..6 {
            lanes.admit(ticket(false, None), n);
        }
        let started: Vec<_> = std::iter::from_fn(|| lanes.start()).collect();
        assert_eq!(started.len(), 3);
        lanes.set_limit(1);
        let mut started = started.into_iter();
        for running in [2, 1] {
            let (ended, _) = started.next().unwrap();
            lanes.finish(ended);
            assert_eq!((lanes.running(), lanes.start()), (running, None));
        }
        let (ended, _) = started.next().unwrap();
        lanes.finish(ended);
        assert!(lanes.start().is_some());
        lanes.set_limit(2);
        assert!(lanes.start().is_some() && lanes.start().is_none());
    }

    proptest! {
        /// For any order of arrivals and endings: at most one item of a key runs, each lane keeps its order, the limit
        /// is kept, nothing is lost.
        #[test]
        fn lanes_keep_order_and_lose_nothing(
            keys in proptest::collection::vec((any::<bool>(), proptest::option::of(0u8..4)), 1..60),
            endings in proptest::collection::vec(any::<prop::sample::Index>(), 200),
            limit in 1usize..6,
        ) {
            let mut lanes = Lanes::new(limit);
            let mut arriving = keys.iter().map(|(is_replay, k)| ticket(*is_replay, k.map(|k| k.to_string()))).enumerate();
            let mut running: Vec<(Ticket, usize)> = Vec::new();
            let mut done: Vec<(Option<String>, usize)> = Vec::new();
            let mut endings = endings.into_iter();
            while done.len() < keys.len() {
                if let Some((item, ticket)) = arriving.next() {
                    lanes.admit(ticket, item);
                }
                while let Some((ticket, item)) = lanes.start() {
                    prop_assert!(ticket.key.is_none() || running.iter().all(|(other, _)| other.key != ticket.key));
                    running.push((ticket, item));
                }
                prop_assert!(running.len() <= limit);
                if let (Some(ending), false) = (endings.next(), running.is_empty()) {
                    let (ticket, item) = running.swap_remove(ending.index(running.len()));
                    done.push((ticket.key.clone(), item));
                    lanes.finish(ticket);
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
    fn waiting_events_can_be_removed() {
        let mut lanes = Lanes::new(1);
        for item in 0..4 {
            lanes.admit(live("k"), item);
        }
        assert_eq!(lanes.start(), Some((live("k"), 0)));
        assert_eq!(lanes.waiting().count(), 3);
        assert_eq!(lanes.abandon().len(), 3);
        lanes.finish(live("k"));
        assert_eq!(lanes.start(), None);
    }

    /// Which of this many starts, one after the other, are replays.
    fn replays_of(lanes: &mut Lanes<u32>, starts: usize) -> Vec<usize> {
        let started = (0..starts).filter(|_| {
            let (ticket, _) = lanes.start().expect("something waits");
            let is_replay = ticket.priority == Priority::Replay;
            lanes.finish(ticket);
            is_replay
        });
        started.collect()
    }

    #[test]
    fn live_events_go_first_and_replays_do_not_starve() {
        let mut lanes = Lanes::new(16);
        for item in 0..20 {
            lanes.admit(ticket(true, None), item);
            lanes.admit(ticket(false, None), item);
        }
        let replays = replays_of(&mut lanes, 24);
        assert_eq!(replays, [7, 15, 22, 23], "no live event is left after 20");
        // Live events that ran before a replay event arrived do not count towards its share.
        let mut lanes = Lanes::new(16);
        for item in 0..20 {
            lanes.admit(ticket(false, None), item);
        }
        assert!(replays_of(&mut lanes, 10).is_empty());
        lanes.admit(ticket(true, None), 0);
        assert_eq!(replays_of(&mut lanes, 8), [7]);
    }

    #[test]
    fn replays_leave_slots_to_live_events() {
        let mut lanes = Lanes::new(16);
        lanes.admit(ticket(false, None), 0);
        for item in 0..100 {
            lanes.admit(ticket(true, None), item);
        }
        let begun: Vec<_> = std::iter::from_fn(|| lanes.start()).collect();
        assert_eq!(
            begun.len(),
            3,
            "one live event, and an eighth of the places"
        );
        for (ticket, _) in begun {
            lanes.finish(ticket);
        }
        assert_eq!(std::iter::from_fn(|| lanes.start()).count(), 16);
    }

    #[test]
    fn a_replayed_event_keeps_its_order_within_its_lane() {
        let mut lanes = Lanes::new(1);
        let key = || Some("k".to_owned());
        for (item, is_replay) in [(1, true), (2, false), (3, true)] {
            lanes.admit(ticket(is_replay, key()), item);
        }
        for item in 1..=3 {
            let (ticket, started) = lanes.start().expect("it is ready");
            assert_eq!(started, item);
            lanes.finish(ticket);
        }
    }

    #[test]
    fn a_lane_is_blocked_from_the_wait_of_its_head_to_its_end() {
        let mut lanes = Lanes::new(2);
        for item in 1..=3 {
            lanes.admit(live("k"), item);
        }
        let (ticket, head) = lanes.start().expect("it is ready");
        assert!(!lanes.is_held_up(&ticket));
        lanes.rest(&ticket);
        assert!(lanes.hold_up(&ticket));
        assert!(lanes.behind(&ticket).eq(&[2, 3]));
        lanes.again(ticket, head);
        let (ticket, _) = lanes.start().expect("it has rested");
        assert!(lanes.is_held_up(&ticket), "while it runs again");
        assert!(!lanes.hold_up(&ticket), "it is already");
        lanes.finish(ticket);
        assert!(!lanes.is_held_up(&live("k")));
        assert!(!lanes.hold_up(&turn_without_key()), "it has no lane");
    }

    fn turn_without_key() -> Ticket {
        ticket(false, None)
    }

    #[test]
    fn the_hottest_keys_are_those_with_the_longest_lanes() {
        let mut lanes = Lanes::new(1);
        for (key, items) in [("cold", 1), ("warm", 3), ("hot", 9), ("tepid", 2)] {
            for item in 0..items {
                lanes.admit(live(key), item);
            }
        }
        assert_eq!(lanes.hottest(2), [("hot", 8), ("warm", 2)]);
        assert_eq!(
            lanes.hottest(9).len(),
            3,
            "nothing waits behind a head alone"
        );
    }

    #[test]
    fn yielding_events_come_between_passing_ones_and_the_rest() {
        let mut lanes = Lanes::new(2);
        for item in ["a1", "a2", "PASS 1", "a3", "PASS 2"] {
            lanes.admit(live("a"), item);
        }
        let may_pass = |item: &&str| item.starts_with("PASS");
        let (ticket, first) = lanes.start().unwrap();
        assert_eq!(lanes.give_way(ticket, first, may_pass), None);
        let mut order = Vec::new();
        while let Some((ticket, item)) = lanes.start() {
            order.push(item);
            // No item matches any more.
            let item = lanes.give_way(ticket, item, |item| may_pass(item) && item.is_empty());
            lanes.finish(item.unwrap().0);
        }
        assert_eq!(order, ["PASS 1", "PASS 2", "a1", "a2", "a3"]);
        assert_eq!(lanes.running(), 0);
    }
}
