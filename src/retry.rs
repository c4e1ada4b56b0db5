//! When a failed delivery is tried again. A pure value: randomness comes in.

use std::time::Duration;

/// A schedule of retries: exponential, jittered, bounded.
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
    /// Waits `first` after the first failure and twice as long after each further one, up to `max`;
    /// 8 attempts in all unless [`Retry::attempts`] says otherwise.
    #[must_use]
    pub const fn exponential(first: Duration, max: Duration) -> Self {
        Self {
            first,
            max,
            attempts: 8,
        }
    }

    /// No second attempt.
    #[must_use]
    pub const fn never() -> Self {
        Self::exponential(Duration::ZERO, Duration::ZERO).attempts(1)
    }

    /// How many attempts there are in all, the first included; 0 counts as 1.
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

    /// The wait after failed attempt number `attempt`: between half and all of [`Retry::longest`], by
    /// `random` from 0 to 1, so that what failed together is not tried again together.
    #[must_use]
    pub fn delay(&self, attempt: u32, random: f64) -> Option<Duration> {
        let share = 0.5 + random.clamp(0.0, 1.0) / 2.0;
        self.longest(attempt).map(|longest| longest.mul_f64(share))
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
    fn the_last_attempt_has_no_successor() {
        assert_eq!(Retry::never().delay(1, 0.5), None);
        assert!(Retry::default().delay(7, 0.5).is_some());
        assert_eq!(Retry::default().delay(8, 0.5), None);
    }
}
