//! When a failed delivery is retried. A plain value: randomness is passed in.

use std::{fmt, time::Duration};

/// A schedule of retries: exponential, with jitter and a limit.
///
/// ```
/// use std::time::Duration;
/// use tidings::Retry;
///
/// let retry = Retry::exponential(Duration::from_secs(1), Duration::from_secs(300)).attempts(8);
/// assert_eq!(retry.longest(3), Some(Duration::from_secs(4)));
/// assert_eq!(retry.longest(8), None); // the eighth attempt was the last
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    first: Duration,
    max: Duration,
    attempts: u32,
}

impl Retry {
    /// Waits `first` after the first failure and twice as long after each further one, up to `max`. There are 8
    /// attempts in all unless [`Retry::attempts`] sets another number.
    #[must_use]
    pub const fn exponential(first: Duration, max: Duration) -> Self {
        Self {
            first,
            max,
            attempts: 8,
        }
    }

    /// A single attempt.
    #[must_use]
    pub const fn never() -> Self {
        Self::exponential(Duration::ZERO, Duration::ZERO).attempts(1)
    }

    /// Sets how many attempts there are in all, including the first; 0 counts as 1.
    #[must_use]
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = if attempts == 0 { 1 } else { attempts };
        self
    }

    /// The longest wait after failed attempt number `attempt`, from 1; `None` when it was the last.
    #[must_use]
    pub fn longest(&self, attempt: u32) -> Option<Duration> {
        if attempt >= self.attempts {
            return None;
        }
        let doublings = attempt.saturating_sub(1).min(31);
        Some(self.first.saturating_mul(1 << doublings).min(self.max))
    }

    /// The wait after failed attempt number `attempt`: between half and all of [`Retry::longest`], by `random` from 0
    /// to 1, so that events that failed together are not retried together.
    #[must_use]
    pub fn delay(&self, attempt: u32, random: f64) -> Option<Duration> {
        let share = 0.5 + random.clamp(0.0, 1.0) / 2.0;
        self.longest(attempt).map(|longest| longest.mul_f64(share))
    }

    /// The longest waits between the attempts, in order: one fewer than the attempts.
    pub fn schedule(self) -> impl Iterator<Item = Duration> {
        (1..).map_while(move |attempt| self.longest(attempt))
    }
}

/// With `u32::MAX` attempts there is no last one. Otherwise
/// `5 attempts: after 1 s, 2 s, 4 s, 8 s (each 50 to 100 %), then dead letter`.
impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waits = self.attempts - 1;
        if waits == 0 {
            return f.write_str("1 attempt, then dead letter");
        }
        let is_endless = self.attempts == u32::MAX;
        match is_endless {
            true => f.write_str("any number of attempts: after ")?,
            false => write!(f, "{} attempts: after ", self.attempts)?,
        }
        let last = self.longest(waits).unwrap_or_default();
        for (before, wait) in (0_u32..).zip(self.schedule()) {
            // The wait does not change any more.
            if wait == last && is_endless {
                return write!(f, "{} each (each 50 to 100 %)", Shown(wait));
            }
            if wait == last && waits - before > 1 {
                write!(f, "{} times {}", waits - before, Shown(wait))?;
                break;
            }
            let comma = if wait == last { "" } else { ", " };
            write!(f, "{}{comma}", Shown(wait))?;
        }
        f.write_str(" (each 50 to 100 %), then dead letter")
    }
}

/// In the largest unit that needs no fraction.
struct Shown(Duration);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let units = [(3_600_000, "h"), (60_000, "min"), (1000, "s")];
        let whole = |(unit, _): &&(u128, &str)| millis > 0 && millis.is_multiple_of(*unit);
        match units.iter().find(whole) {
            Some((unit, name)) => write!(f, "{} {name}", millis / unit),
            None => write!(f, "{millis} ms"),
        }
    }
}

/// 1 s to 5 min, 8 attempts: about two minutes in all.
impl Default for Retry {
    fn default() -> Self {
        Self::exponential(Duration::from_secs(1), Duration::from_secs(300))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn delays_are_bounded_and_end(
            first in 0u64..100_000, max in 0u64..1_000_000, attempts in 0u32..40,
            attempt in any::<u32>(), random in any::<f64>(),
        ) {
            let retry = Retry::exponential(Duration::from_millis(first), Duration::from_millis(max)).attempts(attempts);
            match retry.delay(attempt, random) {
                None => prop_assert!(attempt >= attempts.max(1)),
                Some(delay) => {
                    prop_assert!(attempt < attempts);
                    prop_assert!(delay <= Duration::from_millis(max));
                    prop_assert!(delay * 2 + Duration::from_nanos(2) >= retry.longest(attempt).unwrap());
                }
            }
        }

        #[test]
        fn a_later_failure_never_waits_less_at_most(first in 1u64..10_000, attempt in 1u32..38) {
            let retry = Retry::exponential(Duration::from_millis(first), Duration::from_secs(300)).attempts(40);
            prop_assert!(retry.longest(attempt) <= retry.longest(attempt + 1));
        }
    }

    #[test]
    fn the_schedule_says_every_wait_once() {
        let exponential = |first, max, attempts| {
            let [first, max] = [first, max].map(Duration::from_millis);
            Retry::exponential(first, max).attempts(attempts)
        };
        let shown = [
            (Retry::never(), "1 attempt, then dead letter"),
            (
                exponential(1000, 300_000, 5),
                "5 attempts: after 1 s, 2 s, 4 s, 8 s (each 50 to 100 %), then dead letter",
            ),
            (
                exponential(250, 60_000, 12),
                "12 attempts: after 250 ms, 500 ms, 1 s, 2 s, 4 s, 8 s, 16 s, 32 s, 3 times 1 min \
                 (each 50 to 100 %), then dead letter",
            ),
            (
                exponential(9000, 3_600_000, 2),
                "2 attempts: after 9 s (each 50 to 100 %), then dead letter",
            ),
            (
                exponential(0, 0, u32::MAX),
                "any number of attempts: after 0 ms each (each 50 to 100 %)",
            ),
        ];
        for (retry, text) in shown {
            assert_eq!(retry.to_string(), text);
        }
        let waits: Vec<_> = exponential(1000, 3000, 4).schedule().collect();
        assert_eq!(waits, [1, 2, 3].map(Duration::from_secs));
    }

    #[test]
    fn the_shares_are_those_that_are_shown() {
        let retry = Retry::default();
        let longest = retry.longest(3).unwrap();
        assert_eq!(retry.delay(3, 0.0), Some(longest / 2));
        assert_eq!(retry.delay(3, 1.0), Some(longest));
    }

    #[test]
    fn the_last_attempt_has_no_successor() {
        assert_eq!(Retry::never().delay(1, 0.5), None);
        assert!(Retry::default().delay(7, 0.5).is_some());
        assert_eq!(Retry::default().delay(8, 0.5), None);
    }
}
