//! For how long a condition has held without a break, as far as it was checked. Never reads a clock.

use std::time::{Duration, Instant};

/// Since when a condition holds. It is noted at each look; between two looks it is assumed to hold.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Lasts(Option<Instant>);

impl Lasts {
    /// Notes whether it holds now, and returns for how long it has.
    pub(crate) fn note(&mut self, holds: bool, now: Instant) -> Option<Duration> {
        self.0 = holds.then(|| self.0.unwrap_or(now));
        self.0.map(|since| now.saturating_duration_since(since))
    }

    /// Starts again: what held until now has ended.
    pub(crate) fn restart(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_lasts_until_it_does_not_hold() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut lasts = Lasts::default();
        assert_eq!(lasts.note(false, start), None);
        assert_eq!(lasts.note(true, start + second), Some(Duration::ZERO));
        assert_eq!(lasts.note(true, start + second * 3), Some(second * 2));
        lasts.restart();
        assert_eq!(lasts.note(true, start + second * 4), Some(Duration::ZERO));
        assert_eq!(lasts.note(false, start + second * 5), None);
    }
}
