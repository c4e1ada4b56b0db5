//! When the exporter logs that spans do not arrive: once, and then once a minute with their number. Pure.

use std::time::{Duration, Instant};

/// The pause between two lines.
const PAUSE: Duration = Duration::from_secs(60);

/// Spans that do not arrive.
#[derive(Debug, Default)]
pub(super) struct ExportIssue {
    /// When it was last logged, also if it is over since.
    logged: Option<Instant>,
    /// Whether a line has told it, and none that it is over.
    is_told: bool,
    /// Spans that are lost since the last line.
    lost: u64,
}

impl ExportIssue {
    /// Counts lost spans.
    pub(super) fn lost(&mut self, spans: u64) {
        self.lost += spans;
    }

    /// Spans were lost, or could not be sent. Returns how many were lost since the last line, when one is due.
    pub(super) fn again(&mut self, now: Instant) -> Option<u64> {
        let is_due = self.logged.is_none_or(|logged| now - logged >= PAUSE);
        is_due.then(|| {
            self.logged = Some(now);
            self.is_told = true;
            std::mem::take(&mut self.lost)
        })
    }

    /// Spans have arrived. Returns how many were lost since the last line, when a line had told the issue.
    pub(super) fn is_over(&mut self) -> Option<u64> {
        let is_told = std::mem::take(&mut self.is_told);
        is_told.then(|| std::mem::take(&mut self.lost))
    }

    /// The lost spans that no line has told.
    pub(super) fn untold(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issue_is_logged_once_and_then_once_a_minute() {
        let (mut issue, start) = (ExportIssue::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(issue.is_over(), None, "it had not begun");
        issue.lost(2);
        assert_eq!(issue.again(at(1)), Some(2));
        for second in 2..61 {
            issue.lost(1);
            assert_eq!(issue.again(at(second)), None, "{second}");
        }
        assert_eq!(issue.again(at(61)), Some(59));
        assert_eq!(issue.is_over(), Some(0));
        assert_eq!(issue.is_over(), None);
        assert_eq!(issue.again(at(64)), None, "it comes and goes");
        assert_eq!(issue.again(at(121)), Some(0), "it lasts");
    }

    #[test]
    fn spans_that_are_lost_now_and_then_are_no_flood_of_lines() {
        let (mut issue, start) = (ExportIssue::default(), Instant::now());
        let mut lines = 0;
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            issue.lost(1);
            lines += usize::from(issue.again(now).is_some());
            lines += usize::from(issue.is_over().is_some());
        }
        assert!((10..=20).contains(&lines), "{lines}");
    }
}
