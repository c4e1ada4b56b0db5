//! A named durable with its handlers and its policy: a plain value. Never runs anything.

mod shadow;

use std::time::Duration;

use tidings_contract::{Envelope, Event};

use crate::{
    breaker::CircuitBreaker,
    handler::{
        Contents, Erased, Handler, Typed,
        batch::{BatchHandler, Batching, Many, Plain},
    },
    housekeeping::Housekeeping,
    rate::Rate,
    replaying::Replaying,
    retry::Retry,
    start::Start,
};

use shadow::Shadow;

/// What the server lets be unanswered at once.
pub(crate) const MAX_CONCURRENCY: usize = 10_000;

/// How much of what was pulled and is not answered yet is kept, in bytes.
const MEMORY: usize = 64 * 1024 * 1024;

/// A durable subscriber: several replicas of it share the work, and it continues where it was.
///
/// A new one begins with the oldest event that its stream keeps, unless it says [otherwise](Self::start).
pub struct EventSubscriber<S> {
    durable: String,
    routes: Vec<Route<S>>,
    pub(crate) retry: Retry,
    pub(crate) timeout: Duration,
    pub(crate) concurrency: usize,
    pub(crate) ordered: bool,
    pub(crate) exhausted: Exhausted,
    pub(crate) breaker: CircuitBreaker,
    pub(crate) rate: Option<Rate>,
    pub(crate) memory: usize,
    pub(crate) start: Start,
    shadows: Vec<Shadow<S>>,
}

/// What an ordered subscriber does when an event is out of attempts, rejected, or a dead letter for another
/// reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exhausted {
    /// It is a dead letter, and the later events of its key are handled.
    Skip,
    /// The key is parked: the event and every later one of the key are dead letters, in order, until
    /// `tidings dead-letters redrive` has brought them back, in order. No handler is called for the later ones
    /// meanwhile; their cause is `parked-key`.
    ParkKey,
}

/// Which events a handler takes.
pub(crate) struct Route<S> {
    name: &'static str,
    version: u32,
    /// Whether the events of a replay pass it by.
    pub(crate) skips_replays: bool,
    pub(crate) handler: Box<dyn Erased<S>>,
}

/// Why a subscriber cannot be run as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscriberError {
    /// The durable's name is not one.
    #[error(
        "{0:?} is not a subscriber name: use lower-case letters, digits, `-` and `_`, at most 64"
    )]
    Name(String),
    /// There is no `.on(...)`.
    #[error("subscriber {0} has no handler: add one with `.on(...)`")]
    NoHandler(String),
    /// It parks keys and is not ordered by them.
    #[error("subscriber {0} parks keys and is not ordered: add `.ordered_by_key()`")]
    ParksUnordered(String),
    /// Some handlers handle batches, and some do not.
    #[error("subscriber {0} has handlers of batches and others: use two subscribers")]
    Mixed(String),
    /// A shadow has no name, no handler, or shadows of its own.
    #[error(
        "the shadow {shadow:?} of subscriber {subscriber} needs a name of lower-case letters, digits, `-` and `_` \
         that no other one has, and handlers, and has no shadows of its own"
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
    Twice {
        /// The subscriber.
        subscriber: String,
        /// The event's name.
        name: &'static str,
        /// The event's version.
        version: u32,
    },
}

impl<S: Send + Sync + 'static> EventSubscriber<S> {
    /// A subscriber of this name, which must stay the same from deployment to deployment: lower-case
    /// letters, digits, `-` and `_`, at most 64.
    #[must_use]
    pub fn durable(name: impl Into<String>) -> Self {
        Self {
            durable: name.into(),
            routes: Vec::new(),
            retry: Retry::default(),
            timeout: Duration::from_secs(30),
            concurrency: 16,
            ordered: false,
            exhausted: Exhausted::Skip,
            breaker: CircuitBreaker::default(),
            rate: None,
            memory: MEMORY,
            start: Start::Beginning,
            shadows: Vec::new(),
        }
    }

    /// Where it begins when it is new on a stream; default [`Start::Beginning`], which hands it everything that the
    /// stream still keeps. It counts only when a worker makes the durable: one that is there stays where it is, and
    /// one that was deleted while a worker ran goes on where that worker knows it was. Of several streams each
    /// begins there, so a sequence is for one stream only: with more, the worker refuses to start. A place behind
    /// the end of the stream, in time or sequence, means the next event.
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Adds a handler. Several make one durable with several names; the same name may occur in several
    /// versions.
    #[must_use]
    pub fn on<E: Event, H: Handler<E, S>>(self, handler: H) -> Self {
        self.routed::<E>(Typed::<E, H>::new(handler))
    }

    /// Adds a handler of batches: see [`BatchHandler`]. All handlers of a subscriber handle batches, or none
    /// does. [`EventSubscriber::concurrency`] says how many batches are handled at once. In an ordered
    /// subscriber a batch has one event of a key at most, and a key's next one waits for it.
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

    /// What its handlers need to be done for as long as the worker runs.
    pub(crate) fn housekeeping(&self) -> impl Iterator<Item = Housekeeping> {
        self.all_routes()
            .filter_map(|route| route.handler.housekeeping())
    }

    /// What is in the outboxes that its handlers write to, each once.
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

    /// When failures are tried again; default [`Retry::default`].
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// How long one attempt may take; default 30 s. Beyond, it is dropped at its next await and counts
    /// as failed.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many events of one stream are handled at once in this process: 1 to 10 000, default 16. Of handlers of
    /// batches: how many batches.
    #[must_use]
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency.clamp(1, MAX_CONCURRENCY);
        self
    }

    /// When it stops pulling because its handlers fail; default [`CircuitBreaker::default`].
    #[must_use]
    pub fn circuit_breaker(mut self, breaker: CircuitBreaker) -> Self {
        self.breaker = breaker;
        self
    }

    /// How many attempts begin in a time, in this process; by default as many as there are places for. What is
    /// over waits; retries are attempts too. Each event of a batch counts, when it joins the batch.
    #[must_use]
    pub fn rate(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }

    /// How many bytes of messages, headers included, it holds at once in this process, waiting or being handled;
    /// default 64 MiB. A message that is larger than that comes alone.
    #[must_use]
    pub fn memory(mut self, bytes: usize) -> Self {
        self.memory = bytes;
        self
    }

    /// Handles the events of one key one after the other, in the order of the stream; different keys
    /// side by side. A failure is tried again in place, and the key's later events wait for it.
    ///
    /// One replica works at a time; the others stand by, and take over when it stops, or five seconds after it
    /// was heard of last. Whoever takes over begins at the consumer's ack floor, so that nothing is overtaken:
    /// events after it that were handled already are handled again, in their order.
    /// A replica that was frozen for longer than its lease may still end the handlers that it had begun.
    /// Needs nats-server 2.14.
    #[must_use]
    pub fn ordered_by_key(mut self) -> Self {
        self.ordered = true;
        self
    }

    /// What becomes of a key when one of its events is given up; default [`Exhausted::Skip`]. Only in order.
    #[must_use]
    pub fn when_exhausted(mut self, exhausted: Exhausted) -> Self {
        self.exhausted = exhausted;
        self
    }

    /// The durable's name.
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

    /// Whether a subject is a name that it handles.
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
        if self.exhausted == Exhausted::ParkKey && !self.ordered {
            return Err(SubscriberError::ParksUnordered(self.durable.clone()));
        }
        let batches = |route: &Route<S>| route.handler.batch().is_some();
        if self.all_routes().any(batches) && !self.all_routes().all(batches) {
            return Err(SubscriberError::Mixed(self.durable.clone()));
        }
        self.check_shadows()?;
        self.unique(&self.routes)
    }

    /// Whether each event has one handler at most.
    fn unique(&self, routes: &[Route<S>]) -> Result<(), SubscriberError> {
        for (at, route) in routes.iter().enumerate() {
            let same =
                |other: &Route<S>| (other.name, other.version) == (route.name, route.version);
            if routes[..at].iter().any(same) {
                return Err(SubscriberError::Twice {
                    subscriber: self.durable.clone(),
                    name: route.name,
                    version: route.version,
                });
            }
        }
        Ok(())
    }

    /// The most events of a batch, for each handler of batches.
    pub(crate) fn largest_batches(&self) -> impl Iterator<Item = usize> {
        let batches = self.all_routes();
        let batches = batches.filter_map(|route| route.handler.batch());
        batches.map(|batch| batch.batching().most())
    }

    /// The place of an event's handler among the others, and how its batches are made, when it handles batches.
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

    /// The handler for an event: of its own version, else of the next newer one, whose type may still
    /// read the older payload. A foreign publisher that names no version means the newest.
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
