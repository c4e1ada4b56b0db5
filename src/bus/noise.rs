//! What the client reports again and again while something lasts: said once, then at a growing interval with a count.
//! Never decides what it means.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Until the second time, and at most until a later one.
const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(300);
/// So many reports are told apart.
const MOST: usize = 32;

/// What was said, by report.
#[derive(Debug, Default)]
pub(super) struct Noise(Mutex<BTreeMap<String, Said>>);

#[derive(Debug)]
struct Said {
    at: Instant,
    /// Until it is said again.
    pause: Duration,
    times: u64,
}

impl Noise {
    /// A report has come: how often by now, when it is to be said.
    pub(super) fn hear(&self, report: &str, now: Instant) -> Option<u64> {
        let mut reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(said) = reports.get_mut(report) {
            said.times += 1;
            if now.saturating_duration_since(said.at) < said.pause {
                return None;
            }
            said.at = now;
            said.pause = (said.pause * 2).min(LONGEST);
            return Some(said.times);
        }
        if reports.len() >= MOST {
            reports.pop_first();
        }
        let said = Said {
            at: now,
            pause: FIRST,
            times: 1,
        };
        reports.insert(report.to_owned(), said);
        Some(1)
    }

    /// What lasted is over.
    pub(super) fn forget(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_every_two_seconds_is_said_at_a_growing_interval_with_its_count() {
        let (noise, start) = (Noise::default(), Instant::now());
        let said =
            (0..150).filter_map(|n| noise.hear("IO error", start + Duration::from_secs(2 * n)));
        assert_eq!(said.collect::<Vec<_>>(), [1, 6, 16, 36, 76]);
        assert_eq!(noise.hear("another", start), Some(1));
        noise.forget();
        assert_eq!(noise.hear("IO error", start), Some(1));
    }

    #[test]
    fn no_more_reports_are_kept_than_fit() {
        let noise = Noise::default();
        for n in 0..1000 {
            noise.hear(&n.to_string(), Instant::now());
        }
        assert!(noise.0.lock().unwrap().len() <= MOST);
    }
}
