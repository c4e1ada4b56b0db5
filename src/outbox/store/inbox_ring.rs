//! Which slot of the inbox remembers an event, and which slots are in reach. Pure: the clock is an argument.
//!
//! Time is counted in periods; a slot is written to during one period out of sixteen. The event's own time selects
//! the slot, so that all its deliveries meet in one slot, whenever they arrive.

use chrono::{DateTime, TimeDelta, Utc};
use tidings_contract::Envelope;

/// The number of slots.
const SLOTS: i64 = 16;
/// How many periods before the present one are in reach, and how many after it.
const BEHIND: i64 = 13;
const AHEAD: i64 = 1;
/// The length of a period that the migrations set.
pub(in crate::outbox) const DEFAULT_SECONDS: i64 = 86_400;

/// The ring at one moment, by the database's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ring {
    /// The length of a period, in seconds.
    pub slot_seconds: i64,
    /// The present period.
    pub now: i64,
    /// The first period in reach, whatever the ring holds.
    pub first: i64,
}

impl Ring {
    /// Whether the inbox knows which events of this period were handled.
    pub(in crate::outbox) fn reaches(&self, period: i64) -> bool {
        period >= self.first.max(self.now - BEHIND) && period <= self.now + AHEAD
    }

    /// The time range of the events that are in reach.
    pub(in crate::outbox) fn reach(&self) -> (DateTime<Utc>, DateTime<Utc>) {
        let begin = |period: i64| {
            let seconds = period.saturating_mul(self.slot_seconds);
            DateTime::from_timestamp(seconds, 0).unwrap_or_default()
        };
        let first = self.first.max(self.now - BEHIND);
        (begin(first), begin(self.now + AHEAD + 1))
    }

    /// The one slot that no period in reach maps to.
    pub(in crate::outbox) fn dead_slot(&self) -> usize {
        slot_of(self.now + AHEAD + 1)
    }
}

/// Whether the dead slot may be emptied, this long after the present period began. Not at once: the database's clock
/// may be set back, or a server with a slower clock may take over.
pub(in crate::outbox) fn may_empty(slot_seconds: i64, elapsed: f64) -> bool {
    #[allow(clippy::cast_precision_loss)] // 32 bits in the database
    let quarter = slot_seconds as f64 / 4.0;
    elapsed >= quarter
}

/// The slot of a period.
pub(in crate::outbox) fn slot_of(period: i64) -> usize {
    usize::try_from(period.rem_euclid(SLOTS)).unwrap_or(0)
}

/// The period of a time.
pub(in crate::outbox) fn period_of(time: DateTime<Utc>, slot_seconds: i64) -> i64 {
    time.timestamp().div_euclid(slot_seconds.max(1))
}

/// The event's own time, which is the same at every delivery: the time in its id, when that is a UUIDv7; else the
/// time that its publisher states; else the time at which its stream stored it.
///
/// An event that was delayed for long has an old id when it is published. Its stated time is when it was due. So the
/// stated time is used when it is later by more than half of the reach.
pub(in crate::outbox) fn time_of(
    envelope: &Envelope,
    stored_at: DateTime<Utc>,
    slot_seconds: i64,
) -> DateTime<Utc> {
    let Some(made) = made_at(envelope) else {
        return envelope.time().unwrap_or(stored_at);
    };
    let long = TimeDelta::try_seconds(slot_seconds.saturating_mul(BEHIND / 2)).unwrap_or_default();
    match envelope.time() {
        Some(stated) if stated - made > long => stated,
        _ => made,
    }
}

/// The time in a UUIDv7.
fn made_at(envelope: &Envelope) -> Option<DateTime<Utc>> {
    let id = envelope.id();
    let uuid = id.as_uuid();
    if uuid.get_version_num() != 7 {
        return None;
    }
    let (seconds, nanos) = uuid.get_timestamp()?.to_unix();
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tidings_contract::EventId;
    use uuid::{Timestamp, Uuid};

    const DAY: i64 = DEFAULT_SECONDS;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn made(seconds: u64) -> Envelope {
        let id = Uuid::new_v7(Timestamp::from_unix_time(seconds, 0, 0, 0));
        Envelope::raw("user.created", 1, None, "{}")
            .unwrap()
            .with_id(EventId::from(id))
    }

    proptest! {
        /// At any time, no two periods in reach share a slot, and none has the slot that is emptied.
        #[test]
        fn an_emptied_slot_holds_nothing_within_reach(now in 0i64..100_000, first in 0i64..100_000) {
            let ring = Ring { slot_seconds: DAY, now, first };
            let slots: Vec<usize> = (now - 40..now + 40).filter(|p| ring.reaches(*p)).map(slot_of).collect();
            let mut apart = slots.clone();
            apart.sort_unstable();
            apart.dedup();
            prop_assert_eq!(apart.len(), slots.len());
            prop_assert!(!slots.contains(&ring.dead_slot()));
        }

        /// Until the next period, and for a quarter of it after the clock was set back.
        #[test]
        fn an_emptied_slot_stays_out_of_reach_of_an_earlier_clock(seconds in 2_000_000i64..2_000_000_000, back in 0i64..DAY / 4) {
            let ring = |seconds: i64| Ring { slot_seconds: DAY, now: seconds.div_euclid(DAY), first: 0 };
            let elapsed = seconds.rem_euclid(DAY);
            prop_assume!(may_empty(DAY, elapsed as f64));
            prop_assert_eq!(ring(seconds).dead_slot(), ring(seconds - back).dead_slot());
        }
    }

    #[test]
    fn an_event_has_one_time_wherever_it_is_stored() {
        let envelope = made(1_800_000_000);
        for (stored, stated) in [(0, None), (1, Some(5)), (2, Some(1_800_000_000 + DAY * 6))] {
            let envelope = match stated {
                Some(stated) => envelope.clone().at(at(stated)),
                None => envelope.clone(),
            };
            assert_eq!(time_of(&envelope, at(stored), DAY), at(1_800_000_000));
        }
    }

    #[test]
    fn a_long_delayed_event_has_its_due_time() {
        let due = at(1_800_000_000 + 30 * DAY);
        assert_eq!(time_of(&made(1_800_000_000).at(due), at(0), DAY), due);
    }

    #[test]
    fn a_foreign_event_has_its_own_time_or_that_of_its_stream() {
        let foreign = made(1_800_000_000).with_id(EventId::of_foreign("s", "7"));
        assert_eq!(time_of(&foreign, at(77), DAY), at(77));
        assert_eq!(time_of(&foreign.at(at(5)), at(77), DAY), at(5));
    }

    #[test]
    fn times_before_1970_are_out_of_reach() {
        let ring = Ring {
            slot_seconds: DAY,
            now: 3,
            first: 0,
        };
        assert!(!ring.reaches(period_of(at(-1), DAY)));
        assert!(ring.reaches(period_of(at(0), DAY)));
    }
}
