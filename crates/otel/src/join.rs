//! Whether the handling of an event belongs to the trace that created the event. Pure.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tidings::observer::Delivered;

/// Whether the `process` span of a handler is a child of the span that created the event. It has a link to that span in
/// each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Join {
    /// A child when the event is prompt: handled alone, live, not redriven, at most five minutes old
    /// ([`Observer::join_within`](crate::Observer::join_within)), not delayed by more than ten seconds, and at most a
    /// minute after its first failure. Otherwise it begins a trace of its own: a backend that samples complete traces
    /// decides long before, and a trace that lasts for days helps no reader.
    #[default]
    Auto,
    /// Always a child, except for a batch of several events.
    Parent,
    /// Never a child.
    Link,
}

/// An event that became due this long after it was created was delayed.
const DELAYED: TimeDelta = TimeDelta::seconds(10);
/// An attempt this long after the first failure is not prompt.
const RETRIED: TimeDelta = TimeDelta::minutes(1);

/// What decides about an event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moments {
    pub(crate) now: DateTime<Utc>,
    /// When it was created.
    pub(crate) created_at: DateTime<Utc>,
    /// When it was written into the outbox, or was due; or what its publisher has stated.
    pub(crate) time: Option<DateTime<Utc>>,
    pub(crate) first_failed_at: Option<DateTime<Utc>>,
    pub(crate) redrives: u32,
    pub(crate) is_replay: bool,
}

impl Moments {
    pub(crate) fn of(delivered: &Delivered<'_>, now: DateTime<Utc>) -> Self {
        let time = delivered.event.time();
        let created_at = made_at(delivered);
        Self {
            now,
            created_at: created_at.or(time).unwrap_or(delivered.stored_at),
            time,
            first_failed_at: delivered.first_failed_at,
            redrives: delivered.redrives,
            is_replay: delivered.replay.is_some(),
        }
    }

    /// Whether an event is handled soon after it was created, and for the first time.
    pub(crate) fn are_prompt(&self, within: Duration) -> bool {
        let within = TimeDelta::from_std(within).unwrap_or(TimeDelta::MAX);
        let is_delayed = self
            .time
            .is_some_and(|time| time - self.created_at > DELAYED);
        let is_retried_late = self
            .first_failed_at
            .is_some_and(|failed| self.now - failed > RETRIED);
        !self.is_replay
            && self.redrives == 0
            && self.now - self.created_at <= within
            && !is_delayed
            && !is_retried_late
    }
}

/// The time in the id of an event, which Tidings makes.
fn made_at(delivered: &Delivered<'_>) -> Option<DateTime<Utc>> {
    let (seconds, nanos) = delivered.event.id().as_uuid().get_timestamp()?.to_unix();
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(300);

    fn prompt() -> Moments {
        let now = Utc::now();
        Moments {
            now,
            created_at: now - TimeDelta::seconds(2),
            time: Some(now - TimeDelta::seconds(1)),
            first_failed_at: None,
            redrives: 0,
            is_replay: false,
        }
    }

    #[test]
    fn an_event_that_is_handled_soon_is_prompt() {
        assert!(prompt().are_prompt(WITHIN));
        let retried = Moments {
            first_failed_at: Some(prompt().now - TimeDelta::seconds(30)),
            ..prompt()
        };
        assert!(retried.are_prompt(WITHIN));
    }

    #[test]
    fn each_reason_alone_makes_an_event_not_prompt() {
        let at = prompt();
        let before = |seconds| at.now - TimeDelta::seconds(seconds);
        for (why, moments) in [
            (
                "replayed",
                Moments {
                    is_replay: true,
                    ..at
                },
            ),
            ("redriven", Moments { redrives: 1, ..at }),
            (
                "old",
                Moments {
                    created_at: before(301),
                    time: Some(before(300)),
                    ..at
                },
            ),
            (
                "delayed",
                Moments {
                    created_at: before(20),
                    ..at
                },
            ),
            (
                "retried late",
                Moments {
                    first_failed_at: Some(before(61)),
                    ..at
                },
            ),
        ] {
            assert!(!moments.are_prompt(WITHIN), "{why}");
        }
    }

    #[test]
    fn an_event_of_another_publisher_has_no_age_of_its_own() {
        let stated = Moments {
            time: Some(prompt().now - TimeDelta::days(1)),
            ..prompt()
        };
        assert!(
            stated.are_prompt(WITHIN),
            "a fact may be older than its event"
        );
    }
}
