//! When to look for delayed events, and when to move them. Pure: never reads a clock or the database.

use std::time::Duration;

use tokio::time::Instant;

/// Looking takes at most one part in this many of the relay's time, however much the index has grown because of
/// another process's old snapshot.
const SHARE: u32 = 20;
/// The pause until the next attempt when nothing could be moved: another transaction has locked the due events.
const HELD: Duration = Duration::from_millis(50);
/// How many events are moved at once.
pub(super) const CHUNK: u32 = 1000;

/// What the fetcher knows about delayed events.
pub(super) struct DelaySchedule {
    /// When the next one is due, as far as is known.
    due: Option<Instant>,
    /// The earliest time of the next look.
    look_at: Instant,
    /// The earliest time of the next move.
    move_at: Instant,
}

impl DelaySchedule {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            due: None,
            look_at: now,
            move_at: now,
        }
    }

    /// Whether to ask the database when the next event is due.
    pub(super) fn is_looked_into(&self, now: Instant) -> bool {
        self.look_at <= now
    }

    /// Records the answer of the database to a look that began at `asked` and ended at `now`.
    pub(super) fn looked(&mut self, asked: Instant, now: Instant, due_in: Option<Duration>) {
        self.look_at = now + (now - asked) * SHARE;
        self.due = due_in.and_then(|wait| now.checked_add(wait));
    }

    /// Records how many events were moved.
    pub(super) fn moved(&mut self, now: Instant, events: u64) {
        self.due = (events >= CHUNK.into()).then_some(now);
        if events == 0 {
            self.move_at = now + HELD;
        }
    }

    /// How long until the next move.
    pub(super) fn until_due(&self, now: Instant) -> Option<Duration> {
        let at = self.due?.max(self.move_at);
        Some(at.saturating_duration_since(now))
    }

    /// Whether to move events now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.until_due(now) == Some(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_due_event_is_moved_then_and_not_before() {
        let start = Instant::now();
        let mut schedule = DelaySchedule::new(start);
        assert_eq!(schedule.until_due(start), None);
        schedule.looked(start, start, Some(MS * 30));
        assert_eq!(schedule.until_due(start + MS), Some(MS * 29));
        assert!(!schedule.is_due(start + MS * 29) && schedule.is_due(start + MS * 30));
        schedule.moved(start + MS * 30, 1);
        assert_eq!(schedule.until_due(start + MS * 30), None);
    }

    #[test]
    fn a_full_chunk_is_followed_by_the_next() {
        let now = Instant::now();
        let mut schedule = DelaySchedule::new(now);
        schedule.moved(now, CHUNK.into());
        assert!(schedule.is_due(now));
    }

    #[test]
    fn a_locked_event_is_tried_again_but_not_at_once() {
        let now = Instant::now();
        let mut schedule = DelaySchedule::new(now);
        schedule.moved(now, 0);
        schedule.looked(now, now, Some(Duration::ZERO));
        assert_eq!(schedule.until_due(now), Some(HELD));
    }

    #[test]
    fn a_slow_query_is_repeated_rarely() {
        let start = Instant::now();
        let mut schedule = DelaySchedule::new(start);
        assert!(schedule.is_looked_into(start));
        schedule.looked(start, start + MS * 10, None);
        assert!(!schedule.is_looked_into(start + MS * 209));
        assert!(schedule.is_looked_into(start + MS * 210));
    }

    #[test]
    fn a_time_beyond_all_clocks_is_no_time() {
        let now = Instant::now();
        let mut schedule = DelaySchedule::new(now);
        schedule.looked(now, now, Some(Duration::MAX));
        assert_eq!(schedule.until_due(now), None);
    }
}
