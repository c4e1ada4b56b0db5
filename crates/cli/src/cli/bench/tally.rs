//! Counts which events arrived, how often, and in what order within their keys. The memory is one bit per event and one
//! number per key; counting takes no lock.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::{Job, event::Written, report::Wrong};

pub(super) struct Tally {
    events: usize,
    seen: Vec<AtomicU64>,
    /// For each key, the number of its last event plus one; 0 before the first.
    last: Vec<AtomicUsize>,
    entered: AtomicUsize,
    duplicates: AtomicUsize,
    out_of_order: AtomicUsize,
    strangers: AtomicUsize,
}

impl Tally {
    pub(super) fn new(job: Job) -> Self {
        // The memory is written now, not only reserved, so that the process does not seem to grow during the
        // measurement.
        let mut seen: Vec<_> = (0..job.events.div_ceil(64))
            .map(|_| AtomicU64::new(u64::MAX))
            .collect();
        seen.iter_mut().for_each(|word| *word.get_mut() = 0);
        Self {
            events: job.events,
            seen,
            last: (0..job.keys).map(|_| AtomicUsize::new(0)).collect(),
            entered: AtomicUsize::new(0),
            duplicates: AtomicUsize::new(0),
            out_of_order: AtomicUsize::new(0),
            strangers: AtomicUsize::new(0),
        }
    }

    pub(super) fn enter(&self, event: &Written) {
        let number = event.number;
        self.entered.fetch_add(1, Relaxed);
        if number >= self.events {
            self.strangers.fetch_add(1, Relaxed);
            return;
        }
        let bit = 1 << (number % 64);
        if self.seen[number / 64].fetch_or(bit, Relaxed) & bit != 0 {
            self.duplicates.fetch_add(1, Relaxed);
            return;
        }
        let before = self.last[number % self.last.len()].swap(number + 1, Relaxed);
        if before > number {
            self.out_of_order.fetch_add(1, Relaxed);
        }
    }

    /// How many events arrived, duplicates included.
    pub(super) fn entered(&self) -> usize {
        self.entered.load(Relaxed)
    }

    /// How many events arrived that were never written.
    pub(super) fn strangers(&self) -> usize {
        self.strangers.load(Relaxed)
    }

    pub(super) fn wrong(&self) -> Wrong {
        let bits = self.seen.iter().map(|word| word.load(Relaxed).count_ones());
        let seen: u32 = bits.sum();
        Wrong {
            lost: self.events - seen as usize,
            duplicates: self.duplicates.load(Relaxed),
            out_of_order: self.out_of_order.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: Job = Job {
        events: 130,
        payload: 64,
        keys: 10,
    };

    fn tallied(numbers: impl IntoIterator<Item = usize>) -> Tally {
        let tally = Tally::new(JOB);
        for number in numbers {
            tally.enter(&Written::new(JOB, number));
        }
        tally
    }

    #[test]
    fn missing_duplicate_and_reordered_events_are_counted() {
        assert_eq!(tallied(0..130).wrong(), Wrong::default());
        // Events of different keys may overtake each other.
        let backwards = (0..13).flat_map(|of_key| (0..10).rev().map(move |key| of_key * 10 + key));
        assert_eq!(tallied(backwards).wrong(), Wrong::default());
        let wrong = tallied((0..128).filter(|n| *n != 64).chain([5])).wrong();
        assert_eq!(
            (wrong.lost, wrong.duplicates, wrong.out_of_order),
            (3, 1, 0)
        );
        let numbers = (0..110).chain([121, 111, 110]);
        let wrong = tallied(numbers.chain(112..121).chain(122..130)).wrong();
        assert_eq!(
            (wrong.lost, wrong.duplicates, wrong.out_of_order),
            (0, 0, 1)
        );
    }

    #[test]
    fn an_event_that_was_never_written_is_a_phantom() {
        let tally = tallied([130]);
        assert_eq!((tally.entered(), tally.strangers()), (1, 1));
    }
}
