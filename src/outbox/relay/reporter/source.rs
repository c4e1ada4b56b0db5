//! How far a relay moves, for the process: by a monotonic clock, and over the tenures. Never decides what that means.

use std::{
    sync::{MutexGuard, PoisonError},
    time::Instant,
};

use super::Reporter;
use crate::{
    outbox::store::status::Issue,
    process::{
        RelaySource,
        figures::{RelayFigures, RelayIssue},
    },
};

/// What a relay has done, and when.
#[derive(Debug)]
pub(super) struct Moves {
    is_set_up: bool,
    is_relaying: bool,
    /// When the database last answered a claim of the lease, or a renewal.
    answered_at: Instant,
    /// Rows that were read and are neither confirmed nor parked. A new tenure reads them again: until it has, they
    /// are still those of the last one.
    open_rows: usize,
    /// When a row was last confirmed or parked, or none was open.
    moved_at: Instant,
    fetches_since: Option<Instant>,
    /// Since when delayed events are due, while none is moved.
    overdue_since: Option<Instant>,
    has_waiting: bool,
    confirmed: u64,
    losses: Vec<Issue>,
}

impl Moves {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            is_set_up: false,
            is_relaying: false,
            answered_at: now,
            open_rows: 0,
            moved_at: now,
            fetches_since: None,
            overdue_since: None,
            has_waiting: false,
            confirmed: 0,
            losses: Vec::new(),
        }
    }

    /// A tenure has begun or was interrupted: the log is not read.
    pub(super) fn is_interrupted(&mut self) {
        self.is_relaying = false;
        self.fetches_since = None;
        self.overdue_since = None;
    }

    /// Another relay does the work.
    pub(super) fn stands_by(&mut self, now: Instant) {
        self.is_interrupted();
        self.is_set_up = true;
        self.open_rows = 0;
        self.has_waiting = false;
        self.losses.clear();
        self.moved_at = now;
    }

    /// The log is read from now on. What was held up until now is read again, and its clock goes on.
    fn relays(&mut self, now: Instant) {
        self.is_set_up = true;
        self.is_relaying = true;
        if self.open_rows == 0 {
            self.moved_at = now;
        }
    }

    /// A page was read. The clock of rows begins when they are read, unless others are held up already.
    fn read(&mut self, open_rows: usize, now: Instant) {
        if open_rows == 0 || self.open_rows == 0 {
            self.moved_at = now;
        }
        self.open_rows = open_rows;
    }

    fn moves(&mut self, open_rows: usize, now: Instant) {
        self.moved_at = now;
        self.open_rows = open_rows;
    }

    fn delayed(&mut self, are_due: bool, now: Instant) {
        self.overdue_since = are_due.then(|| self.overdue_since.unwrap_or(now));
    }
}

impl Reporter {
    pub(super) fn moves(&self) -> MutexGuard<'_, Moves> {
        self.moves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database has answered a claim of the lease.
    pub(in crate::outbox::relay) fn claimed(&self) {
        self.moves().answered_at = Instant::now();
    }

    /// The database has written a checkpoint, and says whether parked rows wait for a stream or a subject.
    pub(in crate::outbox::relay) fn answered(&self, has_waiting: bool) {
        let mut moves = self.moves();
        moves.answered_at = Instant::now();
        moves.has_waiting = has_waiting;
    }

    /// The relay has resumed, and reads the log.
    pub(in crate::outbox::relay) fn relays(&self) {
        self.moves().relays(Instant::now());
    }

    /// A page was read; so many rows are open now.
    pub(in crate::outbox::relay) fn read(&self, open_rows: usize) {
        self.moves().read(open_rows, Instant::now());
    }

    /// Rows were confirmed or parked; so many are still open.
    pub(in crate::outbox::relay) fn moves_to(&self, open_rows: usize) {
        self.moves().moves(open_rows, Instant::now());
    }

    /// So many rows were confirmed.
    pub(in crate::outbox::relay) fn has_confirmed(&self, rows: usize) {
        let rows = u64::try_from(rows).unwrap_or(u64::MAX);
        let mut moves = self.moves();
        moves.confirmed = moves.confirmed.saturating_add(rows);
    }

    /// A page is being read, or has been.
    pub(in crate::outbox::relay) fn fetches(&self, begins: bool) {
        self.moves().fetches_since = begins.then(Instant::now);
    }

    /// These losses of streams are neither repaired nor acknowledged.
    pub(in crate::outbox::relay) fn has_losses(&self, losses: Vec<Issue>) {
        self.moves().losses = losses;
    }

    /// Whether delayed events are due that were not moved.
    pub(in crate::outbox::relay) fn delayed(&self, are_due: bool) {
        self.moves().delayed(are_due, Instant::now());
    }
}

impl RelaySource for Reporter {
    fn figures(&self, at: Instant) -> RelayFigures {
        let age = |since: Instant| at.saturating_duration_since(since);
        let issues = self.issues.all().into_iter().map(RelayIssue::from);
        let issues = issues.collect();
        let (activity, epoch, confirmed_at) = {
            let now = self.now();
            (now.activity, now.epoch, now.confirmed_at)
        };
        let moves = self.moves();
        RelayFigures {
            outbox: self.facts.outbox.clone(),
            database: self.facts.database.as_str(),
            owner: self.facts.owner.clone(),
            activity,
            epoch,
            lease: self.control.tuning().lease,
            is_set_up: moves.is_set_up,
            is_relaying: moves.is_relaying,
            unanswered: age(moves.answered_at),
            open_rows: moves.open_rows,
            unmoved: age(moves.moved_at),
            fetching: moves.fetches_since.map(age),
            delayed_overdue: moves.overdue_since.map(age),
            has_waiting: moves.has_waiting,
            confirmed: moves.confirmed,
            confirmed_at,
            issues,
            losses: moves.losses.iter().cloned().map(RelayIssue::from).collect(),
        }
    }
}

impl From<Issue> for RelayIssue {
    fn from(issue: Issue) -> Self {
        Self {
            place: issue.place,
            kind: issue.kind,
            since: issue.since,
            cause: issue.cause,
            cure: issue.cure,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn rows_that_do_not_move_stay_so_over_tenures() {
        let start = Instant::now();
        let mut moves = Moves::new(start);
        moves.relays(start);
        moves.read(7, start + SECOND * 60);
        for tenure in 0..5 {
            moves.is_interrupted();
            let now = start + SECOND * (61 + tenure);
            moves.relays(now);
            moves.read(5, now);
        }
        assert_eq!(moves.moved_at, start + SECOND * 60, "read, and not moved");
        moves.moves(0, start + SECOND * 90);
        moves.read(3, start + SECOND * 99);
        assert_eq!(moves.moved_at, start + SECOND * 99, "new rows, a new clock");
    }

    #[test]
    fn a_log_that_is_found_empty_moves() {
        let start = Instant::now();
        let mut moves = Moves::new(start);
        moves.read(4, start);
        moves.read(0, start + SECOND);
        assert_eq!((moves.open_rows, moves.moved_at), (0, start + SECOND));
    }

    #[test]
    fn delayed_events_are_overdue_since_they_were_first_due() {
        let start = Instant::now();
        let mut moves = Moves::new(start);
        moves.delayed(true, start);
        moves.delayed(true, start + SECOND);
        assert_eq!(moves.overdue_since, Some(start));
        moves.delayed(false, start + SECOND * 2);
        assert_eq!(moves.overdue_since, None);
    }
}
