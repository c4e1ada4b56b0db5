//! The figures of a subscriber for the process. They are read without waiting for the runner, which may be blocked.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use chrono::Utc;
use tokio::sync::oneshot;

use super::{Activity, Inner, StatusReporter};
use crate::{
    instance::FailingKey,
    policy::{breaker::CircuitState, issue_kind::IssueKind},
    position::Position,
    process::{
        Lasts, SubscriberSource,
        figures::{ServerFigures, SubscriberFigures},
    },
    worker::in_flight_table::InFlightTable,
};

/// From this age of the last look on, the server does not answer: an active source looks every two seconds.
const SILENT: Duration = Duration::from_secs(5);
const NO_ANSWER: &str = "NATS does not answer questions about the consumers; try: see whether the nats-server is frozen or \
                         cut off, and whether the stream has a leader";

/// How much runs, as the runner has last said.
#[derive(Debug, Default)]
pub(in crate::worker) struct Gauges {
    running: AtomicUsize,
    resting: AtomicUsize,
    /// Whether an event is due and waits only for a slot.
    has_due: AtomicBool,
    /// Whether all slots are taken.
    is_full: AtomicBool,
    /// The keys that wait behind an event that fails, with its message, when the runner was last asked.
    failing: Mutex<Vec<(Position, FailingKey)>>,
}

/// What is noted each time the figures are read: every 500 ms by the endpoints or the notifier of systemd, and at each
/// request.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// It has stood by or been active before.
    pub(super) is_set_up: bool,
    interrupted: Lasts,
    idle_with_work: Lasts,
    /// Deliveries and ends of attempts until the last look.
    ended: u64,
    hindered: Lasts,
    leaseless: Lasts,
}

/// What keeps a subscriber from working at this moment.
enum Hindrance {
    Now(String),
    /// It may be over.
    Unsure,
}

impl Gauges {
    pub(in crate::worker) fn runs(&self, running: usize, resting: usize) {
        self.running.store(running, Relaxed);
        self.resting.store(resting, Relaxed);
    }

    pub(in crate::worker) fn waits(&self, has_due: bool, is_full: bool) {
        self.has_due.store(has_due, Relaxed);
        self.is_full.store(is_full, Relaxed);
    }

    /// Notes the keys that wait behind an event that fails.
    pub(in crate::worker) fn fail(&self, keys: Vec<(Position, FailingKey)>) {
        *self.noted() = keys;
    }

    /// Those that were noted, and whose event is in flight still: it rests, or is attempted again.
    pub(in crate::worker) fn failing(
        &self,
        in_flight: &[Arc<InFlightTable>],
    ) -> Vec<(Position, FailingKey)> {
        let mut failing = self.noted().clone();
        failing.retain(|(at, _)| in_flight.iter().any(|table| table.holds(*at)));
        failing
    }

    fn noted(&self) -> MutexGuard<'_, Vec<(Position, FailingKey)>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Relaxed)
    }

    pub(super) fn forget(&self) {
        self.runs(0, 0);
        self.waits(false, false);
        self.fail(Vec::new());
    }
}

impl StatusReporter {
    pub(in crate::worker) fn gauges(&self) -> &Gauges {
        &self.gauges
    }

    /// An issue that lasts; a lease that cannot be read or taken is told by itself.
    fn hindrance(&self, inner: &Inner) -> Option<Hindrance> {
        if let Some(issue) = &inner.issue {
            return Some(Hindrance::Now(issue.clone()));
        }
        let stalls = inner.in_flight.iter().filter_map(|table| table.hindrance());
        let mut is_unsure = false;
        for (why, is_over) in stalls {
            if !is_over {
                return Some(Hindrance::Now(why));
            }
            is_unsure = true;
        }
        let missing = self.inspection.missing_rights_of(&self.facts.subscriber);
        if !missing.is_empty() {
            return Some(Hindrance::Now(missing.join("; ")));
        }
        is_unsure.then_some(Hindrance::Unsure)
    }

    fn notes(&self, inner: &Inner) -> Vec<(IssueKind, String)> {
        let told = |kind| move |text: String| (kind, text);
        let of_tables = inner.in_flight.iter().flat_map(|table| table.issues());
        let mut notes: Vec<_> = of_tables.map(told(IssueKind::Instance)).collect();
        let unhandled = self.tally.why_unhandled();
        notes.extend(unhandled.map(told(IssueKind::NameWithoutHandler)));
        let no_letters = self.inspection.no_dead_letters();
        notes.extend(no_letters.map(told(IssueKind::DeadLettersGone)));
        let missing = self.inspection.missing_rights_of(&self.facts.subscriber);
        let inspected = self.inspection.issues_of(&self.facts).into_iter();
        let inspected = inspected.filter(|issue| !missing.contains(issue));
        notes.extend(inspected.map(told(IssueKind::Instance)));
        notes.extend(inner.replay_issue.clone().map(told(IssueKind::ReplayStuck)));
        notes.sort();
        notes.dedup();
        notes
    }
}

/// What waited at the server at the last look at each consumer, and whether it was paused.
fn at_server(inner: &Inner, now: Instant) -> (Option<ServerFigures>, bool, bool) {
    let looks = inner.in_flight.iter().map(|table| table.last_look());
    let looks: Option<Vec<_>> = looks.collect();
    let looks = looks.filter(|looks| !looks.is_empty());
    let Some(looks) = looks else {
        return (None, false, false);
    };
    let ages = looks
        .iter()
        .map(|look| now.saturating_duration_since(look.at));
    let clock = Utc::now();
    let tables = inner.in_flight.iter();
    let oldest = tables.filter_map(|table| table.oldest_pending(now, clock));
    let server = ServerFigures {
        pending: looks
            .iter()
            .map(|look| look.pending)
            .fold(0, u64::saturating_add),
        ack_pending: looks
            .iter()
            .map(|look| look.ack_pending)
            .fold(0, u64::saturating_add),
        oldest: oldest.max().unwrap_or_default(),
        age: ages.max().unwrap_or_default(),
    };
    let is_paused = looks.iter().any(|look| look.is_paused);
    let mut waiting = looks
        .iter()
        .filter(|look| look.pending > 0 && !look.is_paused);
    (Some(server), is_paused, waiting.any(|look| look.has_room))
}

impl SubscriberSource for StatusReporter {
    fn figures(&self, now: Instant) -> SubscriberFigures {
        let counts = self.tally.counts();
        let (circuit, circuit_open) = (self.throttle.circuit(), self.throttle.open_for());
        let (circuit_error, probe_in) = self.throttle.why_open();
        let (running, resting) = (
            self.gauges.running.load(Relaxed),
            self.gauges.resting.load(Relaxed),
        );
        let mut inner = self.inner();
        let (server, is_paused, has_pending) = at_server(&inner, now);
        let held = inner.in_flight.iter().map(|table| table.held());
        let (in_flight, in_flight_bytes) =
            held.fold((0, 0), |sum, held| (sum.0 + held.0, sum.1 + held.1));
        let hindrance = self.hindrance(&inner);
        let notes = self.notes(&inner);
        let leaseless = inner.leaseless.clone();
        let activity = inner.activity;
        let failing = self.gauges.failing(&inner.in_flight).into_iter();
        let failing = failing.map(|(_, key)| key).collect();
        if self.facts.ordered && resting > 0 {
            // The answer, which nothing waits for, is there at the next look.
            let runner = inner.runner.as_ref();
            let _ = runner.map(|runner| runner.try_send(oneshot::channel().0));
        }

        let looks = &mut inner.looks;
        let ended = counts
            .handled
            .wrapping_add(counts.failed)
            .wrapping_add(counts.dead_lettered)
            // Those that are left to other instances end without an attempt.
            .wrapping_add(self.tally.deliveries());
        if std::mem::replace(&mut looks.ended, ended) != ended {
            looks.idle_with_work.restart();
        }
        let has_work = has_pending || self.gauges.has_due.load(Relaxed);
        let is_idle = activity == Activity::Active && running == 0 && has_work;
        let idle_with_work = looks
            .idle_with_work
            .note(is_idle && circuit == CircuitState::Closed, now);
        let is_off = matches!(activity, Activity::Starting | Activity::Draining);
        let interrupted = looks.interrupted.note(looks.is_set_up && is_off, now);
        let hindered = looks.hindered.note(hindrance.is_some(), now);
        let hindrance = match hindrance {
            Some(Hindrance::Now(why)) => Some((why, hindered.unwrap_or_default())),
            // A pull that was sent again to a frozen server looks resumed. Each look is a question with an answer.
            Some(Hindrance::Unsure) | None => server
                .filter(|server| server.age >= SILENT)
                .map(|server| (NO_ANSWER.to_owned(), server.age)),
        };
        let leaseless_for = looks.leaseless.note(leaseless.is_some(), now);
        SubscriberFigures {
            name: self.facts.subscriber.clone(),
            ordered: self.facts.ordered,
            concurrency: self.throttle.concurrency(),
            timeout: Duration::from_millis(self.facts.timeout_ms),
            stuck_after: self.stuck_after,
            activity,
            is_set_up: looks.is_set_up,
            interrupted,
            is_paused,
            server,
            running,
            is_full: self.gauges.is_full.load(Relaxed),
            resting,
            in_flight,
            in_flight_bytes,
            idle_with_work,
            oldest_attempt: None,
            oldest_event: None,
            last_ended: self.tally.last_ended(now),
            circuit,
            circuit_open,
            circuit_error,
            probe_in,
            unconfirmed: self.tally.unconfirmed_for(now),
            hindrance,
            leaseless: leaseless.zip(leaseless_for),
            notes,
            failing,
            handled: counts.handled,
            failed: counts.failed,
            dead_lettered: counts.dead_lettered,
        }
    }
}
