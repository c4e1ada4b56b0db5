//! A histogram without a lock: an observation is an addition to one bucket and to the sum. Never keeps a single value.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The bounds of delays between two moments in the life of an event, in seconds.
pub(super) const DELAYS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 900.0, 3600.0,
];
/// The bounds of attempts: those of OpenTelemetry, and three that a long handler needs, in seconds.
pub(super) const ATTEMPTS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0,
    300.0,
];

/// Counts values by the bucket that they fall into.
#[derive(Debug)]
pub(super) struct Histogram {
    bounds: &'static [f64],
    /// One more than there are bounds: the last has the values above all of them.
    counts: Box<[AtomicU64]>,
    /// The bits of an `f64`.
    sum: AtomicU64,
}

/// A histogram at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Snapshot {
    pub(super) sum: f64,
    pub(super) count: u64,
    /// The upper bound of each bucket, and how many values lie in it, without those of the smaller buckets.
    pub(super) buckets: Vec<(f64, u64)>,
}

/// Values that are added at once.
pub(super) struct Batch<'a> {
    histogram: &'a Histogram,
    counts: [u32; MOST],
    sum: f64,
}

/// The most buckets of a histogram.
const MOST: usize = 24;
const _: () = assert!(DELAYS.len() < MOST && ATTEMPTS.len() < MOST);

impl Histogram {
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }

    /// Counts a value; one below zero, which clocks that differ can lead to, as zero.
    pub(super) fn observe(&self, value: f64) {
        let value = value.max(0.0);
        if let Some(count) = self.counts.get(self.bucket(value)) {
            count.fetch_add(1, Relaxed);
        }
        self.add(value);
    }

    /// Counts many values with one addition for each bucket.
    pub(super) fn batch(&self) -> Batch<'_> {
        Batch {
            histogram: self,
            counts: [0; MOST],
            sum: 0.0,
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let counts: Vec<u64> = self
            .counts
            .iter()
            .map(|count| count.load(Relaxed))
            .collect();
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        Snapshot {
            sum: f64::from_bits(self.sum.load(Relaxed)),
            count: counts.iter().sum(),
            buckets: bounds.zip(counts).collect(),
        }
    }

    fn bucket(&self, value: f64) -> usize {
        self.bounds.partition_point(|bound| *bound < value)
    }

    fn add(&self, value: f64) {
        let added = |bits| Some((f64::from_bits(bits) + value).to_bits());
        let _ = self.sum.fetch_update(Relaxed, Relaxed, added);
    }
}

impl Batch<'_> {
    pub(super) fn observe(&mut self, value: f64) {
        let value = value.max(0.0);
        if let Some(count) = self.counts.get_mut(self.histogram.bucket(value)) {
            *count += 1;
        }
        self.sum += value;
    }

    pub(super) fn end(self) {
        for (count, more) in self.histogram.counts.iter().zip(self.counts) {
            if more > 0 {
                count.fetch_add(u64::from(more), Relaxed);
            }
        }
        self.histogram.add(self.sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: &[f64] = &[0.1, 1.0];

    #[test]
    fn a_value_is_in_the_first_bucket_that_is_not_below_it() {
        let one = Histogram::new(BOUNDS);
        for value in [-3.0, 0.05, 0.1, 0.5, 1.0, 7.0] {
            one.observe(value);
        }
        let snapshot = one.snapshot();
        assert_eq!(
            snapshot.buckets,
            [(0.1, 3), (1.0, 2), (f64::INFINITY, 1)],
            "a bound is part of its bucket"
        );
        assert_eq!(snapshot.count, 6);
        assert!((snapshot.sum - 8.65).abs() < 1e-9, "{}", snapshot.sum);
    }

    #[test]
    fn values_that_are_added_at_once_count_as_if_one_by_one() {
        let (single, many) = (Histogram::new(DELAYS), Histogram::new(DELAYS));
        let mut batch = many.batch();
        for n in 0..10_000_u32 {
            let value = f64::from(n) * 0.5;
            single.observe(value);
            batch.observe(value);
        }
        batch.end();
        assert_eq!(single.snapshot(), many.snapshot());
    }
}
