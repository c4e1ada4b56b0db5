//! A named durable with its handlers and its policy: a plain value. Never runs anything.

mod shadow;

use std::time::Duration;

use tidings_contract::{Envelope, Event};

use super::housekeeping::Housekeeping;
use crate::{
    handler::{
        Contents, Erased, Handler, Typed,
        batch::{BatchHandler, Batching, Many, Plain},
    },
    policy::{
        adjustment::CONCURRENCY, breaker::CircuitBreaker, rate::Rate, retry::Retry,
        start::StartFrom,
    },
    replay::tag::Replaying,
};

use shadow::Shadow;

/// The maximum number of deliveries that the server leaves ack pending at once.
pub(crate) const MAX_CONCURRENCY: usize = CONCURRENCY.most();

/// The default limit of bytes in flight.
const MEMORY: usize = 64 * 1024 * 1024;

/// A durable subscriber: its instances share the work, and it continues where it stopped.
///
/// A new subscriber begins with the oldest event that its stream holds, unless [another start](Self::start) is set.
pub struct EventSubscriber<S> {
    durable: String,
    routes: Vec<Route<S>>,
    pub(crate) retry: Retry,
    pub(crate) timeout: Duration,
    pub(crate) concurrency: usize,
    pub(crate) ordered: bool,
    pub(crate) exhausted: OnExhausted,
    pub(crate) breaker: CircuitBreaker,
    pub(crate) rate: Option<Rate>,
    pub(crate) memory: usize,
    pub(crate) stuck_after: Option<Duration>,
    pub(crate) start: StartFrom,
    shadows: Vec<Shadow<S>>,
}

/// What an ordered subscriber does when an event is dead-lettered: because it is exhausted, rejected, or for another
/// reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnExhausted {
    /// The event is dead-lettered, and the later events of its key are handled.
    Skip,
    /// The key is parked: the event and every later one of the key are dead-lettered, in order, until
    /// `tidings dead-letters redrive` has redriven them, in order. Meanwhile no handler is called for the later ones;
    /// their cause is `parked-key`.
    ParkKey,
}

/// The events that a handler takes.
pub(crate) struct Route<S> {
    name: &'static str,
    version: u32,
    /// Whether the handler is not called for the events of a replay.
    pub(crate) skips_replays: bool,
    pub(crate) handler: Box<dyn Erased<S>>,
}

/// Why a subscriber cannot run with its configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscriberError {
    /// The name of the durable is invalid.
    #[error(
        "{0:?} is not a subscriber name: use lower-case letters, digits, `-` and `_`, at most 64"
    )]
    Name(String),
    /// There is no `.on(...)`.
    #[error("subscriber {0} has no handler: add one with `.on(...)`")]
    NoHandler(String),
    /// It parks keys but is not ordered by key.
    #[error("subscriber {0} parks keys and is not ordered: add `.ordered_by_key()`")]
    ParksUnordered(String),
    /// Some of its handlers are batch handlers, and some are not.
    #[error("subscriber {0} has batch handlers and other handlers: use two subscribers")]
    Mixed(String),
    /// A shadow has no name, no handlers, or shadows of its own.
    #[error(
        "the shadow {shadow:?} of subscriber {subscriber} needs a name of lower-case letters, digits, `-` and `_` \
         that no other shadow has, needs handlers, and cannot have shadows"
    )]
    Shadow {
        /// The subscriber.
        subscriber: String,
        /// The shadow.
        shadow: String,
    },
    /// Two handlers take the same events.
    #[error(
        "subscriber {subscriber} has two handlers for {name} version {version}: use two subscribers"
    )]
    DuplicateHandler {
        /// The subscriber.
        subscriber: String,
        /// The event's name.
        name: &'static str,
        /// The event's version.
        version: u32,
    },
}

impl<S: Send + Sync + 'static> EventSubscriber<S> {
    /// A subscriber with this name, which must stay the same from deployment to deployment: lower-case letters, digits,
    /// `-` and `_`, at most 64.
    #[must_use]
    pub fn durable(name: impl Into<String>) -> Self {
        Self {
            durable: name.into(),
            routes: Vec::new(),
            retry: Retry::default(),
            timeout: Duration::from_secs(30),
            concurrency: 16,
            ordered: false,
            exhausted: OnExhausted::Skip,
            breaker: CircuitBreaker::default(),
            rate: None,
            memory: MEMORY,
            stuck_after: None,
            start: StartFrom::Beginning,
            shadows: Vec::new(),
        }
    }

    /// Sets where a new subscriber begins in a stream; default [`StartFrom::Beginning`], which delivers everything that the
    /// stream still holds. It applies only when a worker creates the durable. An existing durable stays where it is,
    /// and a durable that is deleted while a worker runs continues at the position that the worker knows. With several
    /// streams, each begins there, so a sequence is only valid with one stream: with more, the worker refuses to start.
    /// A time or sequence beyond the end of the stream means the next event.
    #[must_use]
    pub fn start(mut self, start: StartFrom) -> Self {
        self.start = start;
        self
    }

    /// Adds a handler. Several handlers make one durable with several names; the same name may occur in several
    /// versions.
    #[must_use]
    pub fn on<E: Event, H: Handler<E, S>>(self, handler: H) -> Self {
        self.routed::<E>(Typed::<E, H>::new(handler))
    }

    /// Adds a batch handler: see [`BatchHandler`]. Either all handlers of a subscriber are batch handlers, or none.
    /// [`EventSubscriber::concurrency`] sets how many batches are handled at once. In an ordered subscriber a batch
    /// contains at most one event of a key, and the next event of the key waits for it.
    #[must_use]
    pub fn on_batch<E: Event, H: BatchHandler<E, S>>(self, batching: Batching, handler: H) -> Self {
        self.routed::<E>(Many::<E, _>::new(batching, Plain(handler)))
    }

    pub(crate) fn routed<E: Event>(mut self, handler: impl Erased<S> + 'static) -> Self {
        self.routes.push(Route {
            name: E::NAME,
            version: E::VERSION,
            skips_replays: false,
            handler: Box::new(handler),
        });
        self
    }

    /// The maintenance that its handlers need while the worker runs.
    pub(crate) fn housekeeping(&self) -> impl Iterator<Item = Housekeeping> {
        self.all_routes()
            .filter_map(|route| route.handler.housekeeping())
    }

    /// The contents of the outboxes that its handlers write to, each outbox once.
    pub(crate) fn outboxes(&self) -> impl Iterator<Item = Contents<'_>> {
        let mut seen = Vec::new();
        let outboxes = self.all_routes();
        let outboxes = outboxes.filter_map(|route| route.handler.outbox());
        outboxes.filter(move |outbox| {
            let is_new = !seen.contains(&outbox.of);
            seen.push(outbox.of);
            is_new
        })
    }

    /// Sets when failures are retried; default [`Retry::default`].
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Sets how long one attempt may take; default 30 s. After that, the handler is dropped at its next await and the
    /// attempt counts as failed.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how many events of one stream are handled at once in this process: 1 to 10 000, default 16. With batch
    /// handlers: how many batches.
    #[must_use]
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = CONCURRENCY.nearest(concurrency);
        self
    }

    /// Sets when it stops pulling because its handlers fail; default [`CircuitBreaker::default`].
    #[must_use]
    pub fn circuit_breaker(mut self, breaker: CircuitBreaker) -> Self {
        self.breaker = breaker;
        self
    }

    /// Limits how many attempts begin per time, in this process; no limit by default. Further events wait; retries are
    /// attempts too. Each event of a batch counts when it joins the batch.
    #[must_use]
    pub fn rate_limit(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }

    /// Limits the bytes of messages in flight in this process, including headers, waiting or being handled; default 64
    /// MiB. A message that is larger than the limit is in flight alone.
    #[must_use]
    pub fn max_in_flight_bytes(mut self, bytes: usize) -> Self {
        self.memory = bytes;
        self
    }

    /// Sets after how long it counts as stuck for the health endpoints while all of its slots are taken and no attempt
    /// ends; default the [timeout](Self::timeout), at most 60 s. Set it when its handlers take long.
    #[must_use]
    pub fn stuck_after(mut self, stuck_after: Duration) -> Self {
        self.stuck_after = Some(stuck_after);
        self
    }

    /// Handles the events of one key one after another, in the order of the stream; different keys concurrently. A
    /// failed event is retried in place, and the key's later events wait for it.
    ///
    /// One instance is active at a time; the other instances are on standby. A standby takes over when the active
    /// instance stops, or five seconds after its last sign. It begins at the consumer's ack floor, so that no event
    /// overtakes another: later events that were already handled are handled again, in their order. An instance that
    /// was frozen for longer than its lease may still finish the handlers that it had begun. Needs nats-server 2.14.
    #[must_use]
    pub fn ordered_by_key(mut self) -> Self {
        self.ordered = true;
        self
    }

    /// Sets what happens to a key when one of its events is dead-lettered; default [`OnExhausted::Skip`]. Only for
    /// ordered subscribers.
    #[must_use]
    pub fn on_exhausted(mut self, exhausted: OnExhausted) -> Self {
        self.exhausted = exhausted;
        self
    }

    /// The name of the durable.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.durable
    }

    /// The names of the events that it handles, each once.
    pub fn event_names(&self) -> impl Iterator<Item = &'static str> {
        let mut names: Vec<_> = self.routes.iter().map(|route| route.name).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter()
    }

    /// Whether it handles events with this subject.
    pub(crate) fn takes(&self, subject: &str, replay: Option<&Replaying>) -> bool {
        let mut routes = self.routes_of(replay).iter();
        routes.any(|route| route.name == subject)
    }

    pub(crate) fn check(&self) -> Result<(), SubscriberError> {
        if !is_name(&self.durable) {
            return Err(SubscriberError::Name(self.durable.clone()));
        }
        if self.routes.is_empty() {
            return Err(SubscriberError::NoHandler(self.durable.clone()));
        }
        if self.exhausted == OnExhausted::ParkKey && !self.ordered {
            return Err(SubscriberError::ParksUnordered(self.durable.clone()));
        }
        let batches = |route: &Route<S>| route.handler.batch().is_some();
        if self.all_routes().any(batches) && !self.all_routes().all(batches) {
            return Err(SubscriberError::Mixed(self.durable.clone()));
        }
        self.check_shadows()?;
        self.unique(&self.routes)
    }

    /// Checks that each event has at most one handler.
    fn unique(&self, routes: &[Route<S>]) -> Result<(), SubscriberError> {
        for (at, route) in routes.iter().enumerate() {
            let same =
                |other: &Route<S>| (other.name, other.version) == (route.name, route.version);
            if routes[..at].iter().any(same) {
                return Err(SubscriberError::DuplicateHandler {
                    subscriber: self.durable.clone(),
                    name: route.name,
                    version: route.version,
                });
            }
        }
        Ok(())
    }

    /// The maximum batch size of each batch handler.
    pub(crate) fn largest_batches(&self) -> impl Iterator<Item = usize> {
        let batches = self.all_routes();
        let batches = batches.filter_map(|route| route.handler.batch());
        batches.map(|batch| batch.batching().most())
    }

    /// The index of an event's handler, and its batching, when it is a batch handler.
    pub(crate) fn batching(
        &self,
        envelope: &Envelope,
        replay: Option<&Replaying>,
    ) -> Option<(usize, Batching)> {
        let route = self.route(envelope, replay)?;
        if replay.is_some() && route.skips_replays {
            return None;
        }
        let mut all = self.all_routes();
        let at = all.position(|other| std::ptr::eq(other, route))?;
        Some((at, route.handler.batch()?.batching()))
    }

    /// The handler for an event: the one for its version, otherwise the one for the next newer version, whose type may
    /// still read the older payload. Without a version, from a foreign publisher, the handler for the newest version.
    pub(crate) fn route(
        &self,
        envelope: &Envelope,
        replay: Option<&Replaying>,
    ) -> Option<&Route<S>> {
        let routes = self.routes_of(replay).iter();
        let named = routes.filter(|route| route.name == envelope.name().as_str());
        match envelope.version() {
            0 => named.max_by_key(|route| route.version),
            wanted => named
                .filter(|route| route.version >= wanted)
                .min_by_key(|route| route.version),
        }
    }
}

/// Lower-case letters, digits, `-` and `_`, at most 64.
fn is_name(text: &str) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    !text.is_empty() && text.len() <= 64 && text.bytes().all(letter)
}

impl<S> std::fmt::Debug for EventSubscriber<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.routes.iter().map(|r| (r.name, r.version)).collect();
        f.debug_struct("EventSubscriber")
            .field("durable", &self.durable)
            .field("events", &names)
            .field("retry", &self.retry)
            .field("timeout", &self.timeout)
            .field("concurrency", &self.concurrency)
            .field("ordered", &self.ordered)
            .field("exhausted", &self.exhausted)
            .field("breaker", &self.breaker)
            .field("rate", &self.rate)
            .field("memory", &self.memory)
            .field("start", &self.start)
            .finish()
    }
}
