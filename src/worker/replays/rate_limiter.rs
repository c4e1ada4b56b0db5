//! Passes events from the sources of a replay to the runner at its rate, or into the report of a rehearsal. Never
//! pulls, and never handles an event.

use std::sync::Arc;

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::filter::Found;
use crate::{
    executor::{Ends, Executor, replay::Rehearsed},
    observer::DeliveryEnd,
    policy::rate::Bucket,
    replay::{RehearsedEvents, ReplayRequest, UndecodableEvent},
    worker::{answers::hand_back, item::Item},
};

/// How many events are received at a time.
const AT_A_TIME: usize = 64;
/// How many errors a rehearsal reports.
const ERRORS: usize = 10;

/// Where the events of a replay go.
pub(super) enum Outlet<S> {
    /// To the runner, to be handled.
    Runner(mpsc::Sender<Item>),
    /// Into a report.
    Report(Arc<Executor<S>>),
}

/// Stands between the sources of a replay and the outlet of its events.
pub(super) struct RateLimiter<S> {
    ends: Ends,
    ordered: bool,
    bucket: Option<Bucket>,
    outlet: Outlet<S>,
    found: Arc<Found>,
}

impl<S: Send + Sync + 'static> RateLimiter<S> {
    pub(super) fn new(
        ends: &Ends,
        ordered: bool,
        request: &ReplayRequest,
        outlet: Outlet<S>,
        found: &Arc<Found>,
    ) -> Self {
        Self {
            ends: ends.clone(),
            ordered,
            bucket: request.rate.map(Bucket::new),
            outlet,
            found: Arc::clone(found),
        }
    }

    /// Runs until its sources have ended or it is told to stop; the events that it has then are handed back.
    pub(super) async fn run(mut self, mut from: mpsc::Receiver<Item>, stop: CancellationToken) {
        let mut back = Vec::new();
        let mut came = Vec::with_capacity(AT_A_TIME);
        while let Some(1..) = stop
            .run_until_cancelled(from.recv_many(&mut came, AT_A_TIME))
            .await
        {
            for item in came.drain(..) {
                match stop.is_cancelled() {
                    true => back.push(item),
                    false => back.extend(self.take(item, &stop).await),
                }
            }
        }
        while let Some(item) = from.recv().await {
            back.push(item);
        }
        for item in &back {
            self.ends.tell(&item.delivery, DeliveryEnd::Returned);
            item.in_flight.let_go(item.delivery.position);
        }
        // With order, the next instance begins at the ack floor.
        if !self.ordered {
            hand_back(
                self.ends.subscriber(),
                back.into_iter().map(|item| item.ack),
            )
            .await;
        }
    }

    /// Passes an event on; returns it when it is told to stop first, or when that fails.
    async fn take(&mut self, item: Item, stop: &CancellationToken) -> Option<Item> {
        match &self.outlet {
            Outlet::Report(executor) => {
                let rehearsed = executor.rehearse(&item.delivery);
                if item.ack.ack_unconfirmed().await.is_err() {
                    return Some(item);
                }
                self.ends.tell(&item.delivery, DeliveryEnd::Rehearsed);
                let (mut entry, error) = entry_of(&item, rehearsed);
                let mut report = self.found.rehearsal();
                add(&mut report.events, &mut entry);
                if report.errors.len() < ERRORS {
                    report.errors.extend(error);
                }
                item.in_flight.release(item.delivery.position);
                None
            }
            Outlet::Runner(runner) => {
                let runner = runner.clone();
                if stop.run_until_cancelled(self.its_time()).await.is_none() {
                    return Some(item);
                }
                runner.send(item).await.err().map(|unsent| unsent.0)
            }
        }
    }

    /// Waits until the rate limit lets the next event begin.
    async fn its_time(&mut self) {
        let Some(bucket) = &mut self.bucket else {
            return;
        };
        while let Some(moment) = bucket.wait_until(Instant::now().into_std()) {
            tokio::time::sleep_until(moment.into()).await;
        }
        bucket.take(Instant::now().into_std());
    }
}

/// One event in a report.
fn entry_of(item: &Item, rehearsed: Rehearsed) -> (RehearsedEvents, Option<UndecodableEvent>) {
    let delivery = &item.delivery;
    let (name, version) = match &delivery.envelope {
        Ok(envelope) => (envelope.name().to_string(), envelope.version()),
        Err(_) => (delivery.subject.to_string(), 0),
    };
    let mut events = RehearsedEvents {
        name: name.clone(),
        version,
        events: 1,
        ..RehearsedEvents::default()
    };
    let error = match rehearsed {
        Rehearsed::Call => {
            events.would_call = 1;
            None
        }
        Rehearsed::Skip => {
            events.would_skip = 1;
            None
        }
        Rehearsed::Undecodable(error) => {
            events.undecodable = 1;
            Some(UndecodableEvent {
                stream: delivery.stream.to_string(),
                sequence: delivery.position.sequence,
                name,
                version,
                error,
            })
        }
    };
    (events, error)
}

/// Adds to the entry of the same name and version.
fn add(all: &mut Vec<RehearsedEvents>, more: &mut RehearsedEvents) {
    let place = |one: &RehearsedEvents| (&one.name, one.version).cmp(&(&more.name, more.version));
    match all.binary_search_by(place) {
        Ok(at) => {
            // The previous counts come from an entry that any client may have written.
            let one = &mut all[at];
            one.events = one.events.saturating_add(more.events);
            one.would_call = one.would_call.saturating_add(more.would_call);
            one.would_skip = one.would_skip.saturating_add(more.would_skip);
            one.undecodable = one.undecodable.saturating_add(more.undecodable);
        }
        Err(at) => all.insert(at, std::mem::take(more)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_progress_reports() {
        let seed = r#"{"events":[{"name":"user.created","version":1,"events":18446744073709551615,"would_call":0,
            "would_skip":18446744073709551615,"undecodable":1}],"errors":[]}"#;
        tidings_fuzz::fuzz_json("report that goes on", &[seed], |text| {
            let Ok(report) = serde_json::from_slice::<crate::replay::Rehearsal>(text) else {
                return false;
            };
            let mut all = report.events;
            for one in all.clone().into_iter().take(100) {
                let (name, version) = (one.name, one.version);
                let mut more = RehearsedEvents {
                    name,
                    version,
                    events: 1,
                    ..RehearsedEvents::default()
                };
                add(&mut all, &mut more);
            }
            true
        });
    }
}
