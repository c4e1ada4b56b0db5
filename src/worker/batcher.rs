//! Collects batches: the events that wait for each batch handler, and since when. A plain data structure; it never
//! waits and never runs anything.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::handler::batch::Batching;

/// The events that wait for their batch, by what the events of a batch have in common.
pub(super) struct Batcher<K, T>(BTreeMap<K, Gathering<T>>);

struct Gathering<T> {
    batching: Batching,
    items: Vec<T>,
    /// When the first of them arrived.
    since: Instant,
}

impl<K, T> Default for Batcher<K, T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Gathering<T> {
    fn is_full(&self) -> bool {
        self.items.len() >= self.batching.most()
    }

    fn due(&self) -> Instant {
        let linger = self.batching.waits().min(LONGEST);
        self.since + linger
    }
}

/// The longest linger; a longer one counts as an hour.
const LONGEST: Duration = Duration::from_secs(3_600);

impl<K: Ord, T> Batcher<K, T> {
    pub(super) fn add(&mut self, of: K, batching: Batching, item: T, now: Instant) {
        let gathering = self.0.entry(of).or_insert_with(|| Gathering {
            batching,
            items: Vec::new(),
            since: now,
        });
        if gathering.items.is_empty() {
            gathering.since = now;
        }
        gathering.items.push(item);
    }

    /// A batch that is full, or has waited long enough: the one that has waited longest.
    pub(super) fn ready(&mut self, now: Instant) -> Option<Vec<T>> {
        let all = self.0.values_mut();
        let ready = all.filter(|gathering| {
            !gathering.items.is_empty() && (gathering.is_full() || gathering.due() <= now)
        });
        let gathering = ready.min_by_key(|gathering| gathering.since)?;
        let most = gathering.batching.most().min(gathering.items.len());
        Some(gathering.items.drain(..most).collect())
    }

    /// When the next batch has waited long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        let waiting = self
            .0
            .values()
            .filter(|gathering| !gathering.items.is_empty());
        waiting.map(Gathering::due).min()
    }

    /// How many events wait.
    pub(super) fn len(&self) -> usize {
        self.0.values().map(|gathering| gathering.items.len()).sum()
    }

    /// Removes and returns all events that wait.
    pub(super) fn abandon(&mut self) -> Vec<T> {
        let all = std::mem::take(&mut self.0).into_values();
        all.flat_map(|gathering| gathering.items).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Duration = Duration::from_millis(10);

    fn batcher(items: u32, now: Instant) -> Batcher<usize, u32> {
        let mut batcher = Batcher::default();
        for item in 0..items {
            batcher.add(0, Batching::of(3).linger(LINGER), item, now);
        }
        batcher
    }

    #[test]
    fn a_full_batch_is_ready_at_once_and_others_after_linger() {
        let now = Instant::now();
        let mut batcher = batcher(5, now);
        assert_eq!(batcher.ready(now), Some(vec![0, 1, 2]));
        assert_eq!(batcher.ready(now), None);
        assert_eq!(batcher.due(), Some(now + LINGER));
        assert_eq!(batcher.ready(now + LINGER), Some(vec![3, 4]));
        assert_eq!((batcher.ready(now + LINGER), batcher.due()), (None, None));
    }

    #[test]
    fn handlers_have_batches_of_their_own_and_nothing_is_lost() {
        let now = Instant::now();
        let mut batcher = batcher(2, now);
        batcher.add(1, Batching::of(1), 7, now + LINGER);
        assert_eq!(batcher.ready(now), Some(vec![7]));
        assert_eq!(batcher.abandon(), [0, 1]);
        assert_eq!(batcher.ready(now + LINGER), None);
    }
}
