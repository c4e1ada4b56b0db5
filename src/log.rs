//! Keeps the log small: texts are cut, and a condition that lasts is logged once, and then at growing intervals with a
//! count. Writes no line itself.

use std::{
    borrow::Cow,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How much of a foreign text is put into a line, in bytes.
const LONGEST_TEXT: usize = 256;
/// The pause between the first line and the next; each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// A different cause is logged at once, but no sooner than this after the previous line.
const ANOTHER: Duration = Duration::from_secs(1);
/// A condition that did not occur for this long has ended.
const QUIET: Duration = Duration::from_secs(60);

/// A text as a field of a log line: when it is long, it is cut at a character boundary.
pub(crate) fn short(text: &str) -> Cow<'_, str> {
    if text.len() <= LONGEST_TEXT {
        return text.into();
    }
    let end = text.floor_char_boundary(LONGEST_TEXT);
    format!("{}... ({} bytes)", &text[..end], text.len()).into()
}

/// A condition that may occur again and again.
#[derive(Debug, Default)]
pub(crate) struct Lasting(Mutex<Option<Said>>);

#[derive(Debug, Clone, Copy)]
struct Said {
    cause: u64,
    at: Instant,
    pause: Duration,
    /// When it last occurred.
    last: Instant,
    /// How often it has occurred since it was last logged.
    unsaid: u64,
}

impl Lasting {
    /// Records an occurrence. When it is to be logged, returns how often it has occurred since it was last logged.
    pub(crate) fn again(&self, now: Instant) -> Option<u64> {
        self.again_as("", now)
    }

    /// The same, with a cause: a cause that differs from the last one is logged sooner.
    pub(crate) fn again_as(&self, cause: &str, now: Instant) -> Option<u64> {
        let cause = hash_of(cause);
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (pause, unsaid) = match &mut *said {
            None => (FIRST_PAUSE, 0),
            Some(said) => {
                let is_over = now.saturating_duration_since(said.last) > said.pause.max(QUIET);
                let behind = now.saturating_duration_since(said.at);
                said.last = now;
                match () {
                    () if is_over => (FIRST_PAUSE, said.unsaid),
                    () if behind >= said.pause => {
                        ((said.pause * 2).min(LONGEST_PAUSE), said.unsaid)
                    }
                    () if said.cause != cause && behind >= ANOTHER => (said.pause, said.unsaid),
                    () => {
                        said.unsaid += 1;
                        return None;
                    }
                }
            }
        };
        *said = Some(Said {
            cause,
            at: now,
            pause,
            last: now,
            unsaid: 0,
        });
        Some(unsaid)
    }

    /// Ends the condition. Returns whether it had been logged.
    pub(crate) fn is_over(&self) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.take().is_some()
    }
}

fn hash_of(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_on_a_character_with_its_length() {
        assert_eq!(short("short"), "short");
        let long = "\u{1f600}".repeat(1_000_000);
        let cut = short(&long);
        assert!(
            cut.len() < 300 && cut.ends_with("... (4000000 bytes)"),
            "{cut}"
        );
    }

    #[test]
    fn a_lasting_issue_is_logged_ever_less_often_with_a_count() {
        let (lasting, began) = (Lasting::default(), Instant::now());
        let millis = (0..3_600_000).step_by(10);
        let said = millis.filter_map(|millis| {
            let unsaid = lasting.again(began + Duration::from_millis(millis))?;
            Some((millis / 1000, unsaid))
        });
        let said: Vec<_> = said.collect();
        let first = [(0, 0), (10, 999), (30, 1_999), (70, 3_999), (150, 7_999)];
        assert_eq!(said[..5], first);
        assert!(said.len() <= 14, "{said:?}");
    }

    #[test]
    fn alternating_causes_are_logged_without_a_flood() {
        let (lasting, began) = (Lasting::default(), Instant::now());
        assert_eq!(lasting.again_as("denied", began), Some(0));
        let soon = began + Duration::from_millis(1_500);
        assert_eq!(lasting.again_as("denied", soon), None);
        assert_eq!(lasting.again_as("no leader", soon), Some(1));
        let said = (0..10_000).filter(|n| {
            let cause = if n % 2 == 0 { "denied" } else { "no leader" };
            let now = soon + Duration::from_millis(*n);
            lasting.again_as(cause, now).is_some()
        });
        assert!(said.count() <= 10);
    }

    #[test]
    fn an_issue_that_is_over_starts_again() {
        let (lasting, began) = (Lasting::default(), Instant::now());
        assert!(!lasting.is_over());
        assert_eq!(lasting.again(began), Some(0));
        assert!(lasting.is_over());
        assert_eq!(lasting.again(began), Some(0));
        assert_eq!(lasting.again(began), None);
        let later = began + QUIET * 2;
        assert_eq!(lasting.again(later), Some(1), "it had been quiet");
    }

    #[test]
    fn fuzz_texts_of_lines() {
        let seeds = [
            &*"x".repeat(LONGEST_TEXT),
            &"\u{1f600}".repeat(LONGEST_TEXT / 4),
            &"a\u{e9}".repeat(LONGEST_TEXT),
        ];
        tidings_fuzz::fuzz_text("text of a line", &seeds, |text| {
            let shown = short(text);
            assert!(shown.len() <= LONGEST_TEXT + 40);
            assert!(shown == text || shown.ends_with(&format!("... ({} bytes)", text.len())));
            shown != text
        });
    }
}
