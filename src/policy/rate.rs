//! How many attempts may begin per time: a token bucket. A plain value: the time is passed in; it never waits.

use std::{
    fmt,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// How many attempts a subscriber begins per time.
///
/// They are spread evenly. After a lull, the attempts that are due in a tenth of a second may begin at once, at least
/// one: with `Rate::per_second(100)` ten, with `Rate::per_minute(60)` one. In any period *t* at most `rate * t`
/// attempts begin, plus that burst.
///
/// ```
/// use tidings::Rate;
///
/// assert_eq!(Rate::per_second(10), Rate::per_minute(600));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    interval: Duration,
}

/// Attempts that are due in this time may begin at once.
const BURST: Duration = Duration::from_millis(100);
/// A longer interval makes no difference. The limit is needed because an instant can overflow, and a rate may have been
/// read from anywhere.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

impl Rate {
    /// This many attempts per second; 0 counts as 1.
    #[must_use]
    pub fn per_second(events: u32) -> Self {
        Self::per(Duration::from_secs(1), events)
    }

    /// This many attempts per minute; 0 counts as 1.
    #[must_use]
    pub fn per_minute(events: u32) -> Self {
        Self::per(Duration::from_secs(60), events)
    }

    /// Rounded up, so that the rate is not exceeded.
    fn per(time: Duration, events: u32) -> Self {
        let nanos = time.as_nanos().div_ceil(u128::from(events.max(1)));
        Self {
            interval: Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)),
        }
    }

    /// The time from one attempt to the next.
    #[cfg(feature = "outbox")]
    pub(crate) fn interval(self) -> Duration {
        self.interval
    }

    /// How much earlier than due an attempt may begin.
    fn tolerance(self) -> Duration {
        BURST.saturating_sub(self.interval)
    }
}

/// `100 per second`, or `90 per minute` when the rate is not a whole number per second.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.interval.as_nanos().max(1);
        let rounded = |time: u128| (time + nanos / 2) / nanos;
        let second = Duration::from_secs(1).as_nanos();
        // The interval is a whole number of nanoseconds, so a rate may differ from a whole number by a little.
        match rounded(second) {
            events if (events * nanos).abs_diff(second) <= events => {
                write!(f, "{events} per second")
            }
            _ => write!(f, "{} per minute", rounded(60 * second)),
        }
    }
}

/// The bucket of one subscriber, stored as the time at which the next attempt is due.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: Rate,
    due: Option<Instant>,
}

impl Bucket {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, due: None }
    }

    pub(crate) fn rate(&self) -> Rate {
        self.rate
    }

    /// Changes the rate. The next attempt is due after an interval of the new rate at the latest.
    pub(crate) fn adjust(&mut self, rate: Rate, now: Instant) {
        self.rate = rate;
        let latest = now + rate.interval.min(LONGEST);
        self.due = self.due.map(|due| due.min(latest));
    }

    /// When the next attempt may begin; `None` when it may begin now.
    pub(crate) fn wait_until(&self, now: Instant) -> Option<Instant> {
        let due = self.due?;
        let early = due.checked_sub(self.rate.tolerance()).unwrap_or(now);
        (early > now).then_some(early)
    }

    /// Records that an attempt begins now.
    pub(crate) fn take(&mut self, now: Instant) {
        let due = self.due.map_or(now, |due| due.max(now));
        self.due = Some(due + self.rate.interval.min(LONGEST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_higher_rate_does_not_wait_for_the_lower_one() {
        let now = Instant::now();
        let mut bucket = Bucket::new(Rate::per_minute(1));
        bucket.take(now);
        assert_eq!(bucket.wait_until(now), Some(now + Duration::from_secs(60)));
        bucket.adjust(Rate::per_second(1), now);
        assert_eq!(bucket.wait_until(now), Some(now + Duration::from_secs(1)));
        bucket.adjust(Rate::per_minute(1), now);
        bucket.take(now + Duration::from_secs(1));
        let due = bucket.wait_until(now);
        assert_eq!(due, Some(now + Duration::from_secs(61)));
    }

    /// The times of attempts that begin as soon as the bucket allows, after lulls of these lengths.
    fn beginnings(rate: Rate, lulls: &[u64]) -> Vec<Instant> {
        let mut bucket = Bucket::new(rate);
        let mut now = Instant::now();
        let mut begun = Vec::new();
        for lull in lulls {
            now += Duration::from_millis(*lull);
            for _ in 0..40 {
                now = bucket.wait_until(now).unwrap_or(now);
                bucket.take(now);
                begun.push(now);
            }
        }
        begun
    }

    proptest! {
        #[test]
        fn no_time_sees_more_than_its_rate_and_the_burst(
            events in 1u32..3000, is_minute in any::<bool>(), lulls in proptest::collection::vec(0u64..500, 1..4),
        ) {
            let rate = if is_minute { Rate::per_minute(events) } else { Rate::per_second(events) };
            let begun = beginnings(rate, &lulls);
            let burst = (BURST.as_nanos() / rate.interval.as_nanos()).max(1);
            for (at, first) in begun.iter().enumerate() {
                for (more, last) in begun[at..].iter().enumerate() {
                    let due = (*last - *first).as_nanos() / rate.interval.as_nanos();
                    prop_assert!((more as u128) < due + burst + 1, "{} of {due} and {burst}", more + 1);
                }
            }
        }

        #[test]
        fn no_due_permit_is_lost(events in 1u32..3000) {
            let rate = Rate::per_second(events);
            let begun = beginnings(rate, &[0]);
            let took = *begun.last().unwrap() - begun[0];
            prop_assert!(took <= rate.interval * 39);
        }
    }

    #[test]
    fn a_rate_is_shown_as_it_was_given() {
        for events in [1, 3, 7, 100, 3000, 29_999] {
            let shown = Rate::per_second(events).to_string();
            assert_eq!(shown, format!("{events} per second"));
        }
        assert_eq!(Rate::per_minute(100).to_string(), "100 per minute");
        assert_eq!(Rate::per_minute(6).to_string(), "6 per minute");
        assert_eq!(Rate::per_minute(120).to_string(), "2 per second");
    }

    #[test]
    fn a_burst_is_what_a_tenth_of_a_second_allows() {
        let at_once = |rate| {
            let begun = beginnings(rate, &[0]);
            begun.iter().filter(|at| **at == begun[0]).count()
        };
        assert_eq!(at_once(Rate::per_second(100)), 10);
        assert_eq!(at_once(Rate::per_minute(60)), 1);
        assert_eq!(at_once(Rate::per_second(0)), 1);
    }
}
