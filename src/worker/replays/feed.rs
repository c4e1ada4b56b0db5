//! From the sources of a replay to the runner: what is in its range and matches its filters, at its rate. Never
//! pulls, and never handles an event.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    executor::{Executor, replay::Rehearsed},
    job::{Rehearsal, RehearsedEvents, Replay, ReplayRequest, UndecodableEvent},
    rate::Bucket,
    replaying::{Count, Course},
    worker::{answers::hand_back, source::Item},
};

/// How many events are taken in at a time.
const AT_A_TIME: usize = 64;
/// How many errors a rehearsal tells.
const ERRORS: usize = 10;

/// Where the events of a replay go.
pub(super) enum Outlet<S> {
    /// To the runner, to be handled.
    Runner(mpsc::Sender<Item>),
    /// Into a report.
    Report(Arc<Executor<S>>),
}

pub(super) struct Feed<S> {
    subscriber: Arc<str>,
    ordered: bool,
    request: ReplayRequest,
    /// The last sequence of each stream.
    last: HashMap<String, u64>,
    bucket: Option<Bucket>,
    course: Arc<Course>,
    outlet: Outlet<S>,
    found: Arc<Found>,
}

/// What whoever looks after the replay wants to know of its feed.
#[derive(Default)]
pub(super) struct Found {
    rehearsal: Mutex<Rehearsal>,
    /// Something came from the end of a range, or from beyond it.
    is_at_end: AtomicBool,
}

impl Found {
    pub(super) fn rehearsal(&self) -> MutexGuard<'_, Rehearsal> {
        self.rehearsal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something has come from the end of a range since it was asked last.
    pub(super) fn is_at_end(&self) -> bool {
        self.is_at_end.swap(false, Relaxed)
    }
}

impl<S: Send + Sync + 'static> Feed<S> {
    pub(super) fn new(
        replay: &Replay,
        ordered: bool,
        course: Arc<Course>,
        outlet: Outlet<S>,
        found: Arc<Found>,
    ) -> Self {
        let last = replay.ranges.iter();
        Self {
            subscriber: (&*replay.subscriber).into(),
            ordered,
            request: replay.request.clone(),
            last: last
                .map(|range| (range.stream.clone(), range.last))
                .collect(),
            bucket: replay.request.rate.map(Bucket::new),
            course,
            outlet,
            found,
        }
    }

    /// Runs until its sources have ended, or until it is told to stop; what it has then goes back.
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
            item.hands.let_go(item.arrival.at);
        }
        // In order whoever is next begins at the ack floor.
        if !self.ordered {
            hand_back(&self.subscriber, back.into_iter().map(|item| item.delivery)).await;
        }
    }

    /// Gives an event back that has no time left.
    async fn take(&mut self, item: Item, stop: &CancellationToken) -> Option<Item> {
        let arrival = &item.arrival;
        let last = self.last.get(&*arrival.stream).copied().unwrap_or(0);
        if arrival.at >= last {
            item.hands.has_come(true, 0);
            self.found.is_at_end.store(true, Relaxed);
        }
        if arrival.at > last {
            if item.delivery.ack_unconfirmed().await.is_err() {
                return Some(item);
            }
            // Not as one that was handled: nobody needs to know that.
            item.hands.let_go(arrival.at);
            return None;
        }
        if !self.matches(&item) {
            return self
                .dispose(item, |feed| feed.course.add(Count::Filtered, 1))
                .await;
        }
        match &self.outlet {
            Outlet::Report(executor) => {
                let rehearsed = executor.rehearse(arrival);
                let (mut entry, error) = entry_of(&item, rehearsed);
                let note = |feed: &Self| {
                    let mut report = feed.found.rehearsal();
                    add(&mut report.events, &mut entry);
                    if report.errors.len() < ERRORS {
                        report.errors.extend(error);
                    }
                };
                self.dispose(item, note).await
            }
            Outlet::Runner(runner) => {
                let runner = runner.clone();
                let waits = self.bucket.is_some();
                if waits && stop.run_until_cancelled(self.its_time()).await.is_none() {
                    return Some(item);
                }
                runner.send(item).await.err().map(|unsent| unsent.0)
            }
        }
    }

    /// Answers an event that no handler gets. Should the answer be lost it comes again, and is answered again.
    async fn dispose(&self, item: Item, note: impl FnOnce(&Self)) -> Option<Item> {
        if item.delivery.ack_unconfirmed().await.is_err() {
            return Some(item);
        }
        note(self);
        item.hands.release(item.arrival.at);
        None
    }

    fn matches(&self, item: &Item) -> bool {
        let Self { request, .. } = self;
        if request.key.is_none() && request.correlation.is_none() {
            return true;
        }
        // What names no event has neither.
        let Ok(envelope) = &item.arrival.envelope else {
            return false;
        };
        let is_key = |key: &String| envelope.key() == Some(key);
        let is_correlation = |id: &String| envelope.correlation_id() == *id;
        request.key.as_ref().is_none_or(is_key)
            && request.correlation.as_ref().is_none_or(is_correlation)
    }

    /// Waits until the next event may begin.
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
    let arrival = &item.arrival;
    let (name, version) = match &arrival.envelope {
        Ok(envelope) => (envelope.name().to_string(), envelope.version()),
        Err(_) => (arrival.subject.to_string(), 0),
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
                stream: arrival.stream.to_string(),
                sequence: arrival.at,
                name,
                version,
                error,
            })
        }
    };
    (events, error)
}

/// Adds to the events of the same name and version.
fn add(all: &mut Vec<RehearsedEvents>, more: &mut RehearsedEvents) {
    let place = |one: &RehearsedEvents| (&one.name, one.version).cmp(&(&more.name, more.version));
    match all.binary_search_by(place) {
        Ok(at) => {
            let one = &mut all[at];
            one.events += more.events;
            one.would_call += more.would_call;
            one.would_skip += more.would_skip;
            one.undecodable += more.undecodable;
        }
        Err(at) => all.insert(at, std::mem::take(more)),
    }
}
