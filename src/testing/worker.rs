//! A worker without servers: the executor, the lanes and the throttle of a real one, a clock that the test moves, and a
//! recorder in place of the acks. Never runs two handlers at once.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::Utc;
use tidings_contract::{Envelope, Event, EventId, IntoEnvelope, wire};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    contents::typed,
    delivered::Delivered,
    fate::{Death, Fate},
    recorder::Recorder,
};
use crate::{
    executor::{Attempt, Delivery, Disposition, Executor, Past, throttle::Begin},
    handler::subscriber::EventSubscriber,
    observer::Observers,
    policy::{
        breaker::Permit,
        lanes::{Lanes, Priority, Ticket},
    },
    position::Position,
    replay::tag::Replaying,
};

/// The most attempts before a retry counts as endless.
const MOST_ATTEMPTS: usize = 10_000;
/// The most consecutive deferrals of an event before they count as endless.
const MOST_DEFERRALS: u32 = 100;

/// Runs a subscriber's handlers as a [`Worker`](crate::Worker) does, without any server, and reports the result of each
/// delivery. Decoding, timeout, retry policy, dead letters, inbox, order by key, circuit and rate limit are the real
/// ones.
///
/// Its clock stands still between deliveries. [`settle`](TestWorker::settle) and [`advance`](TestWorker::advance) move
/// it: an hour of retries takes no time. Delays have no jitter: each is the [longest](crate::Retry::longest) that the
/// policy allows. What a handler itself awaits takes real time.
///
/// ```
/// use std::time::Duration;
/// use serde::{Deserialize, Serialize};
/// use tidings::{Context, Event, EventSubscriber, Failure, handler::Outcome, testing::TestWorker};
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(name = "user.created", version = 1, key = id)]
/// struct UserCreated {
///     id: u32,
/// }
///
/// async fn welcome(_: UserCreated, cx: Context<()>) -> Result<(), Failure> {
///     match cx.attempt() {
///         1 => Err(Failure::retry("the mail server is down")),
///         _ => Ok(()),
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let mut worker = TestWorker::new(EventSubscriber::durable("welcome").on(welcome), ());
/// let first = worker.deliver(&UserCreated { id: 1 }).await;
/// assert_eq!(first.outcome, Some(Outcome::Retry(Duration::from_secs(1))));
///
/// let later = worker.settle().await;
/// assert_eq!((later[0].attempt, &later[0].outcome), (2, &Some(Outcome::Ack)));
/// # }
/// ```
pub struct TestWorker<S> {
    pub(super) subscriber: Arc<EventSubscriber<S>>,
    state: Arc<S>,
    executor: Executor<S>,
    lanes: Lanes<Delivery>,
    /// The events that are attempted later, by time.
    resting: BTreeMap<(Duration, u64), Resting>,
    rested: u64,
    elapsed: Duration,
    sequence: u64,
    recorder: Arc<Recorder>,
    history: Vec<Delivered>,
    /// The replay that deliveries are part of.
    pub(super) replay: Option<Arc<Replaying>>,
}

/// An event that waits for its time.
enum Resting {
    /// In its lane, which waits for it.
    InLane(Ticket, Delivery),
    /// In the retry stream: it arrives as another delivery.
    Away(Delivery),
}

/// An event that has yet to be attempted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiting {
    /// The event's id.
    pub event_id: EventId,
    /// The event's key.
    pub key: Option<String>,
    /// How many attempts at it have failed.
    pub failures: u32,
    /// How long until it is attempted again; `None` when it waits behind an earlier event of its key.
    pub due_in: Option<Duration>,
}

impl<S: Send + Sync + 'static> TestWorker<S> {
    /// A worker with this subscriber alone.
    ///
    /// # Panics
    /// When a real worker would refuse the subscriber: [`SubscriberError`](crate::handler::SubscriberError).
    #[must_use]
    #[track_caller]
    pub fn new(subscriber: EventSubscriber<S>, state: S) -> Self {
        if let Err(error) = subscriber.check() {
            panic!("{error}");
        }
        let (subscriber, state) = (Arc::new(subscriber), Arc::new(state));
        let recorder: Arc<Recorder> = Arc::default();
        let observers = Observers::default().and(Arc::clone(&recorder) as _);
        let executor = Executor::new(Arc::clone(&subscriber), Arc::clone(&state), &observers);
        let executor = executor.without_jitter();
        executor.throttle().skip(Duration::ZERO);
        Self {
            lanes: Lanes::new(subscriber.concurrency),
            executor,
            subscriber,
            state,
            resting: BTreeMap::new(),
            rested: 0,
            elapsed: Duration::ZERO,
            sequence: 0,
            recorder,
            history: Vec::new(),
            replay: None,
        }
    }

    /// The worker's state.
    #[must_use]
    pub fn state(&self) -> &S {
        &self.state
    }

    /// Delivers an event once, and makes one attempt at it, unless an earlier event of its key is in the way. A
    /// `&event` is a new event each time. Pass an [`Envelope`] to deliver the same event again, to set its id, key,
    /// headers and time, or to have a payload that does not decode.
    ///
    /// When the rate limit or the circuit would delay the event, the clock moves on.
    ///
    /// # Panics
    /// When the event could not have been published.
    pub async fn deliver(&mut self, event: impl IntoEnvelope) -> Delivered {
        let delivery = self.delivery(&envelope_of(event));
        self.take(delivery, Fate::Lives).await
    }

    /// Delivers the same event this many times, each at its own stream position: as after a publisher that published it
    /// again, or a replay.
    ///
    /// # Panics
    /// As for [`TestWorker::deliver`].
    pub async fn deliver_times(
        &mut self,
        event: impl IntoEnvelope,
        times: usize,
    ) -> Vec<Delivered> {
        let envelope = envelope_of(event);
        let mut delivered = Vec::new();
        for _ in 0..times {
            let delivery = self.delivery(&envelope);
            delivered.push(self.take(delivery, Fate::Lives).await);
        }
        delivered
    }

    /// Delivers a message from a publisher that does not use Tidings: a subject and a payload, no headers.
    ///
    /// # Panics
    /// When the subject is not the name of an event.
    pub async fn deliver_raw(&mut self, subject: &str, payload: impl Into<Bytes>) -> Delivered {
        let place = format!("TEST/{}/0", self.sequence + 1);
        let read = wire::read(subject, std::iter::empty(), payload.into(), || place);
        let envelope = read.unwrap_or_else(|error| panic!("{error}"));
        let delivery = self.arrived(envelope);
        self.take(delivery, Fate::Lives).await
    }

    /// Delivers an event to a worker that stops before the handler is done. The handler is dropped at its first await
    /// that is not ready at once, and the event is handed back.
    ///
    /// # Panics
    /// As for [`TestWorker::deliver`].
    pub async fn deliver_halted(&mut self, event: impl IntoEnvelope) -> Delivered {
        let delivery = self.delivery(&envelope_of(event));
        self.take(delivery, Fate::Halts).await
    }

    /// Delivers an event to a process that dies while handling it, so that it can be delivered again. Returns whether
    /// the process died; false when the handling ended first.
    pub(super) async fn deliver_to_death(&mut self, envelope: &Envelope, death: Death) -> bool {
        let before = self.history.len();
        let delivery = self.delivery(envelope);
        self.take(delivery, Fate::Dies(death)).await;
        self.history.len() == before
    }

    /// Moves the clock until no event waits any more, and makes every attempt that comes due. Returns those attempts;
    /// the last one of an event has its final outcome.
    ///
    /// # Panics
    /// When there is no end: an event was deferred a hundred times in a row because something that its handler
    /// needs, such as a migrated database, is missing; or ten thousand attempts were made.
    pub async fn settle(&mut self) -> Vec<Delivered> {
        let from = self.history.len();
        while let Some((due, _)) = self.resting.keys().next().copied() {
            self.reach(due).await;
            let made = self.history.len() - from;
            assert!(
                made < MOST_ATTEMPTS,
                "after {made} attempts an event still waits: {:?}",
                self.history.last()
            );
        }
        self.history[from..].to_vec()
    }

    /// Moves the clock, makes every attempt that comes due in that time, and returns those.
    ///
    /// # Panics
    /// As for [`TestWorker::settle`].
    pub async fn advance(&mut self, time: Duration) -> Vec<Delivered> {
        let from = self.history.len();
        let until = self.elapsed + time;
        while let Some((due, _)) = self.resting.keys().next().copied()
            && due <= until
        {
            self.reach(due).await;
        }
        self.skip(until.saturating_sub(self.elapsed));
        self.history[from..].to_vec()
    }

    /// How far the clock was moved.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// The events that have yet to be attempted. First those with a time, the soonest first; then those that wait
    /// behind another event of their key, key by key in order.
    #[must_use]
    pub fn waiting(&self) -> Vec<Waiting> {
        let resting = self.resting.iter().map(|((due, _), resting)| {
            let (Resting::InLane(_, delivery) | Resting::Away(delivery)) = resting;
            (delivery, Some(due.saturating_sub(self.elapsed)))
        });
        let behind = self.lanes.waiting().map(|delivery| (delivery, None));
        let waiting = resting.chain(behind).map(|(delivery, due_in)| {
            let waits = self.nothing_yet(delivery);
            Waiting {
                event_id: waits.event_id,
                key: waits.key,
                failures: delivery.past.failures,
                due_in,
            }
        });
        waiting.collect()
    }

    /// Every attempt so far, in order, including events that were handed back.
    #[must_use]
    pub fn history(&self) -> &[Delivered] {
        &self.history
    }

    /// The deliveries that were dead-lettered, in order.
    pub fn dead_letters(&self) -> impl Iterator<Item = &Delivered> {
        self.history
            .iter()
            .filter(|delivered| delivered.dead_letter().is_some())
    }

    /// The events of one kind in the outbox of its handlers, in order, such as those that a handler of `on_transactional` has
    /// published. For an outbox in the state there is [`published`](super::published()).
    ///
    /// # Panics
    /// When no handler has an outbox, when it cannot be read, or when an event does not decode.
    pub async fn published<E: Event>(&self) -> Vec<E> {
        let name = self.subscriber.name();
        let mut events = Vec::new();
        let mut has_outbox = false;
        for outbox in self.subscriber.outboxes() {
            has_outbox = true;
            match outbox.events.await {
                Ok(envelopes) => events.extend(typed(&envelopes)),
                Err(error) => panic!("the outbox of subscriber {name} cannot be read: {error}"),
            }
        }
        assert!(has_outbox, "no handler of subscriber {name} has an outbox");
        events
    }

    /// The type of the event's handler, for messages.
    pub(super) fn handler_of(&self, envelope: &Envelope) -> &'static str {
        let route = self.subscriber.route(envelope, self.replay.as_deref());
        route.map_or("no handler", |route| route.handler.name())
    }

    /// Whether the handler's effect happens in a transaction that records the event in the inbox.
    pub(super) fn has_inbox(&self, envelope: &Envelope) -> bool {
        let route = self.subscriber.route(envelope, self.replay.as_deref());
        route.is_some_and(|route| route.handler.outbox().is_some())
    }

    /// An event as it arrives from the wire.
    fn delivery(&mut self, envelope: &Envelope) -> Delivery {
        let defaults = wire::Defaults::new(wire::DEFAULT_SOURCE, Utc::now());
        let mut headers = Vec::new();
        wire::write_headers(envelope, defaults, |name, value| {
            headers.push((name.to_owned(), value.to_owned()));
        });
        let lines = headers.iter().map(|(name, value)| (&**name, &**value));
        let subject = envelope.name().as_str();
        let read = wire::read(subject, lines, envelope.payload().clone(), String::new);
        let envelope = read.unwrap_or_else(|error| panic!("{error}"));
        self.arrived(envelope)
    }

    fn arrived(&mut self, envelope: Envelope) -> Delivery {
        self.sequence += 1;
        let stored_at = Utc::now();
        Delivery {
            subject: envelope.name().as_str().into(),
            envelope: Ok(Arc::new(envelope)),
            stream: "TEST".into(),
            sequence: self.sequence,
            stored_at,
            position: Position {
                sequence: self.sequence,
                stored_at,
            },
            consumer_sequence: self.sequence,
            delivered: 1,
            is_suspect: false,
            past: Past::default(),
            replay: self.replay.clone(),
        }
    }

    /// Takes a delivery in, and returns its result.
    async fn take(&mut self, delivery: Delivery, fate: Fate) -> Delivered {
        let (untold, from) = (self.nothing_yet(&delivery), self.history.len());
        self.admit(delivery);
        self.work(fate).await;
        self.history.get(from).cloned().unwrap_or(untold)
    }

    fn admit(&mut self, delivery: Delivery) {
        let key = match &delivery.envelope {
            Ok(envelope) if self.subscriber.ordered => envelope.key().map(str::to_owned),
            _ => None,
        };
        let priority = match delivery.replay {
            Some(_) => Priority::Replay,
            None => Priority::Live,
        };
        self.lanes.admit(Ticket { key, priority }, delivery);
    }

    /// Moves the clock to the time of the first waiting event, and makes the attempts that follow.
    async fn reach(&mut self, due: Duration) {
        self.skip(due.saturating_sub(self.elapsed));
        while let Some(first) = self.resting.first_entry()
            && first.key().0 <= self.elapsed
        {
            match first.remove() {
                Resting::InLane(ticket, delivery) => self.lanes.again(ticket, delivery),
                Resting::Away(delivery) => self.admit(delivery),
            }
        }
        self.work(Fate::Lives).await;
    }

    /// Makes an attempt at every event that is ready, and at those that become ready by it.
    async fn work(&mut self, fate: Fate) {
        while self.lanes.is_ready() {
            match self.executor.throttle().begin(|| self.lanes.start()) {
                Begin::Begun((ticket, delivery), permit) => {
                    self.attempt(ticket, delivery, permit, fate).await;
                }
                Begin::Later(moment) => self.skip(self.executor.throttle().until(moment)),
                Begin::Nothing => return,
            }
        }
    }

    async fn attempt(
        &mut self,
        ticket: Ticket,
        mut delivery: Delivery,
        permit: Permit,
        fate: Fate,
    ) {
        let number = delivery.next_attempt();
        let (halt, dies) = (CancellationToken::new(), Arc::new(Notify::new()));
        let answers = fate.answers(&dies);
        self.recorder.take();
        let run = self.executor.run(Attempt {
            delivery: &mut delivery,
            ack: &answers,
            halt: &halt,
            permit,
        });
        let Some(disposition) = fate.befall(run, &halt, &dies).await else {
            return self.lanes.finish(ticket);
        };
        let (retry, recorded) = (answers.retry(), self.recorder.take());
        let was_handed_back = recorded.outcome.is_none();
        self.history.push(Delivered {
            attempt: number,
            outcome: recorded.outcome,
            error: recorded.error,
            was_handed_back,
            ..self.nothing_yet(&delivery)
        });
        assert!(
            delivery.past.deferrals < MOST_DEFERRALS,
            "deferred {MOST_DEFERRALS} times in a row, because a dependency of the handler is not available, or the \
             circuit is open: {:?}",
            self.history.last()
        );
        match disposition {
            // An event that no handler takes is for another instance.
            Disposition::RetryLocally(after) if !was_handed_back => {
                self.lanes.rest(&ticket);
                self.rest(after, Resting::InLane(ticket, delivery));
                return;
            }
            Disposition::Settled | Disposition::Abandoned | Disposition::RetryLocally(_) => {
                self.lanes.finish(ticket);
            }
        }
        if let Some(after) = retry {
            self.rest(after, Resting::Away(delivery));
        }
    }

    fn rest(&mut self, after: Duration, resting: Resting) {
        self.rested += 1;
        let due = self.elapsed.saturating_add(after);
        self.resting.insert((due, self.rested), resting);
    }

    fn skip(&mut self, time: Duration) {
        self.elapsed = self.elapsed.saturating_add(time);
        self.executor.throttle().skip(time);
    }

    /// A delivery without a result.
    fn nothing_yet(&self, delivery: &Delivery) -> Delivered {
        #[allow(clippy::expect_used)] // `arrived` always has an event
        let envelope = delivery.event().expect("every delivery here is an event");
        Delivered {
            event_id: envelope.id(),
            name: envelope.name().as_str().to_owned(),
            key: envelope.key().map(str::to_owned),
            attempt: 0,
            outcome: None,
            error: None,
            at: self.elapsed,
            was_handed_back: false,
        }
    }
}

pub(super) fn envelope_of(event: impl IntoEnvelope) -> Envelope {
    match event.into_envelope() {
        Ok(envelope) => envelope,
        Err(error) => panic!("the event cannot be published: {error}"),
    }
}

impl<S> fmt::Debug for TestWorker<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestWorker")
            .field("subscriber", &self.subscriber)
            .field("elapsed", &self.elapsed)
            .field("history", &self.history)
            .finish_non_exhaustive()
    }
}
