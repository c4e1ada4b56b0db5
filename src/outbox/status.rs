//! The state of an outbox, in figures. Never judges them.

use std::{sync::atomic::Ordering, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    Outbox, OutboxError, Store,
    losses::REPAIR,
    operate::Operation,
    store::{
        losses::Loss,
        status::{HeldSlot, Issue, Status},
    },
};
use crate::policy::{issue_kind::IssueKind, start::shifted};

impl Loss {
    /// The loss as an issue.
    pub(in crate::outbox) fn issue(&self) -> Issue {
        Issue {
            place: format!("stream {}", self.stream),
            kind: self.state.kind(),
            since: self.since,
            cause: format!("it {}", self.state),
            cure: REPAIR.to_owned(),
        }
    }
}

impl Status {
    /// Whether a relay has the lease now.
    #[must_use]
    pub fn is_relayed(&self) -> bool {
        self.lease.owner.is_some() && self.lease.remaining_seconds >= 0.0
    }

    /// Returns what is stuck, lost, or not relayed: empty when all is well. Short waits are left out.
    #[must_use]
    pub fn stuck(&self) -> Vec<Issue> {
        self.stuck_at(Utc::now())
    }

    /// The same, for a status that was read at this time.
    pub(crate) fn stuck_at(&self, read_at: DateTime<Utc>) -> Vec<Issue> {
        let mut stuck: Vec<Issue> = self.losses.iter().map(Loss::issue).collect();
        let mut add = |place: &str, kind: IssueKind, age_s: f64, cause: String, cure: &str| {
            stuck.push(Issue {
                place: place.to_owned(),
                kind,
                since: before(read_at, age_s),
                cause,
                cure: cure.to_owned(),
            });
        };
        if let Some(why) = &self.refuses {
            add(
                "database",
                self.refuses_as,
                0.0,
                why.clone(),
                "do what the cause says: no relay runs here",
            );
        }
        let overdue = self.overdue_seconds();
        let age = self.oldest_unpublished_seconds.unwrap_or(0.0);
        if self.stands_still {
            let cause = format!("{} wait, and none is confirmed", count(self.backlog));
            let cure = "see the log of the relay";
            add("relay", IssueKind::StandsStill, age, cause, cure);
        }
        if overdue > OVERDUE_S && self.is_relayed() {
            let cause = format!(
                "{} are delayed, and the next is overdue",
                count(self.delayed)
            );
            add(
                "delayed",
                self.why_late(),
                overdue,
                cause,
                "end the transaction that holds the event, such as an open cancel; otherwise see the log of the relay",
            );
        }
        if self.undecided > 0 {
            let age_s = self.oldest_undecided_seconds.unwrap_or(0.0);
            let cause = format!("{} wait for the operator's decision", count(self.undecided));
            add(
                "parked",
                IssueKind::EventParked,
                age_s,
                cause,
                "tidings outbox parked, which says why; then tidings outbox unpark or discard",
            );
        }
        // Put the relay's own issues before the rest, because they name its cause.
        let first = self.losses.len();
        // A configuration that cannot be used holds up no event.
        let issues = self.issues.iter();
        let issues = issues.filter(|issue| issue.kind != IssueKind::Configuration);
        let before = issues.cloned().chain(self.not_relayed_at(read_at));
        stuck.splice(first..first, before);
        stuck
    }

    /// Returns an issue when events wait and no relay has the lease.
    #[must_use]
    pub fn not_relayed(&self) -> Option<Issue> {
        self.not_relayed_at(Utc::now())
    }

    pub(crate) fn not_relayed_at(&self, read_at: DateTime<Utc>) -> Option<Issue> {
        let waits = self.backlog > 0 || self.overdue_seconds() > OVERDUE_S;
        if !waits || self.is_relayed() || self.refuses.is_some() {
            return None;
        }
        let events = count(self.backlog);
        let (kind, age_s, cause) = match &self.lease.owner {
            None => (
                IssueKind::NoRelay,
                self.oldest_unpublished_seconds.unwrap_or(0.0),
                format!("no relay has the lease, and {events} wait"),
            ),
            Some(owner) => (
                IssueKind::OwnerSilent,
                -self.lease.remaining_seconds,
                format!("{owner} has stopped renewing its lease, and {events} wait"),
            ),
        };
        Some(Issue {
            place: "relay".to_owned(),
            kind,
            since: before(read_at, age_s),
            cause,
            cure: match kind {
                IssueKind::OwnerSilent => OWNER_SILENT.to_owned(),
                _ => "start a relay: tidings relay, or a worker that has one".to_owned(),
            },
        })
    }

    /// The kind of issue when delayed events are overdue.
    fn why_late(&self) -> IssueKind {
        match self.held_slots.iter().any(HeldSlot::is_of_delayed) {
            true => IssueKind::DelayedHeld,
            false => IssueKind::DelayedLate,
        }
    }

    /// How long the next delayed event has been overdue, in seconds; 0 when none is.
    fn overdue_seconds(&self) -> f64 {
        self.next_due_seconds.map_or(0.0, |wait| (-wait).max(0.0))
    }

    /// Whether the oldest event is older than a working relay allows.
    fn may_stand_still(&self) -> bool {
        self.is_relayed()
            && self
                .oldest_behind_seconds
                .is_some_and(|age| age > OVERDUE_S)
    }

    /// Whether nothing has moved since an earlier status.
    fn stands_still_since(&self, before: &Self) -> bool {
        self.may_stand_still()
            && self.last_batch == before.last_batch
            && self.oldest_behind_seconds >= before.oldest_behind_seconds
    }
}

/// The cure when the owner of the lease is silent.
const OWNER_SILENT: &str = "start a relay: tidings relay, or a worker that has one; the owner's process is dead or \
     frozen, its host is gone, or it cannot write to the database";
/// From this age on an event is late: a delayed one that is due, or one that waits for a working relay.
const OVERDUE_S: f64 = 10.0;
/// How long the status waits for a confirmation.
const MOVES_WITHIN: Duration = Duration::from_secs(2);

pub(super) fn before(at: DateTime<Utc>, seconds: f64) -> DateTime<Utc> {
    let age = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default();
    let age = TimeDelta::from_std(age).unwrap_or(TimeDelta::MAX);
    shifted(at, -age)
}

fn count(events: u64) -> String {
    match events {
        1 => "1 event".to_owned(),
        events => format!("{events} events"),
    }
}

impl<DB: Store> Outbox<DB> {
    /// Counts events that were written.
    pub(super) fn has_enqueued(&self, events: usize) {
        let events = u64::try_from(events).unwrap_or(u64::MAX);
        self.shared.enqueued.fetch_add(events, Ordering::Relaxed);
    }

    /// How many events this process has written, also in transactions that were rolled back later.
    #[cfg(feature = "ops")]
    pub(crate) fn enqueued(&self) -> u64 {
        self.shared.enqueued.load(Ordering::Relaxed)
    }

    /// Returns the state of the outbox. Counts the backlog, which takes a moment for millions of events.
    ///
    /// # Errors
    /// [`OutboxError::NotMigrated`] without tables, else [`OutboxError::Database`].
    pub async fn status(&self) -> Result<Status, OutboxError> {
        let status = self.figures().await?;
        if !status.may_stand_still() {
            return Ok(status);
        }
        tokio::time::sleep(MOVES_WITHIN).await;
        let later = self.figures().await?;
        Ok(Status {
            stands_still: later.stands_still_since(&status),
            ..later
        })
    }

    /// Returns the state without looking twice whether anything moves.
    pub(crate) async fn figures(&self) -> Result<Status, OutboxError> {
        let names = &self.shared.names;
        self.operate(Operation::One, async |connection| {
            let origin = DB::origin(connection, names).await?;
            let status = DB::status(connection, names).await?;
            let home = DB::home(connection, names).await?;
            Ok(Status {
                nats: home.stored.map(|stored| stored.nats),
                held_slots: DB::held(connection, names).await?,
                refuses: origin.refusal(),
                refuses_as: origin.kind(),
                ..status
            })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row may hold a time before the first calendar year.
    #[test]
    fn an_age_beyond_every_time_is_shown_as_the_first_time() {
        for seconds in [9.3e12, 1.0e18, f64::MAX, f64::INFINITY] {
            assert!(before(Utc::now(), seconds) <= Utc::now(), "{seconds}");
        }
        assert!(Utc::now() - before(Utc::now(), 5.0) < TimeDelta::seconds(60));
    }
}
