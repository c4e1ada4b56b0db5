//! Tells the status reporter how much runs, after each turn of the runner: endpoints and metrics read it there, also
//! while the runner cannot answer. Never decides anything.

use std::{cmp::Reverse, time::Duration};

use chrono::{TimeDelta, Utc};
use tokio::time::Instant;

use super::Run;
use crate::{
    instance::{FailingKey, shortened},
    policy::{lanes::Ticket, start::shifted},
    position::Position,
    worker::{item::Item, status_reporter::Figures},
};

/// How many keys are reported that wait behind an event that fails.
const MOST_FAILING: usize = 10;

impl<S: Send + Sync + 'static> Run<S> {
    pub(super) fn gauge(&self) {
        // What waits for the rate limit or for the circuit is not due.
        let has_due = self.later.is_none() && self.lanes.is_ready();
        let (running, resting) = (self.attempts(), self.resting.len());
        self.reporter.gauges().runs(running, resting);
        let is_full = !self.has_free_task();
        self.reporter.gauges().waits(has_due, is_full);
    }

    /// What only the runner knows.
    pub(super) fn figures(&self) -> Figures {
        let failing = match self.ordered {
            true => self.failing(),
            false => Vec::new(),
        };
        self.reporter.gauges().fail(failing.clone());
        let keys = failing.into_iter().map(|(_, key)| key).collect();
        Figures::of(self.attempts(), self.resting.len(), &self.lanes, keys)
    }

    /// The keys whose first event has failed, those with the most events behind it first. It rests; or it did when this
    /// was last looked at, and is attempted again now.
    fn failing(&self) -> Vec<(Position, FailingKey)> {
        let now = Instant::now();
        let mut resting: Vec<_> = self.resting.iter().collect();
        resting.retain(|(_, (_, item))| item.delivery.past.failures > 0);
        resting.sort_by_cached_key(|(_, (ticket, item))| {
            let waiting = self.lanes.behind(ticket).count();
            Reverse((waiting, item.delivery.past.failures))
        });
        resting.truncate(MOST_FAILING);
        let resting = resting
            .into_iter()
            .filter_map(|((due, _), (ticket, item))| {
                let waiting = self.lanes.behind(ticket).count();
                of_failing(waiting, due.saturating_duration_since(now), (ticket, item))
            });
        let mut failing: Vec<_> = resting.collect();
        let mut attempted = self.reporter.gauges().failing(&self.in_flight);
        attempted.retain(|(at, _)| failing.iter().all(|(other, _)| other != at));
        failing.extend(attempted);
        failing.sort_by_key(|(_, key)| Reverse((key.waiting, key.attempts)));
        failing.truncate(MOST_FAILING);
        failing
    }
}

fn of_failing(
    waiting: usize,
    due_in: Duration,
    (ticket, item): (&Ticket, &Item),
) -> Option<(Position, FailingKey)> {
    let (delivery, at) = (&item.delivery, Utc::now());
    let event = delivery.event()?;
    let due_in = TimeDelta::from_std(due_in).unwrap_or(TimeDelta::MAX);
    let key = FailingKey {
        key: shortened(ticket.key.as_deref()?),
        name: event.name().as_str().to_owned(),
        event: event.id().to_string(),
        attempts: delivery.past.failures,
        since: delivery.past.first_failed_at.unwrap_or(at),
        next_at: shifted(at, due_in),
        waiting,
    };
    Some((delivery.position, key))
}
