//! Batch handlers: their events, their results for each event, and how they are called without their type. Never forms
//! a batch.

mod besides;
mod settle;

use std::{
    marker::PhantomData,
    ops::{Deref, Range},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures::{FutureExt, future::BoxFuture};
use tidings_contract::{Envelope, Event, EventId, Headers};
use tokio_util::sync::CancellationToken;

use super::{
    Contents, Erased,
    context::{self, Context, Facts},
    housekeeping::Housekeeping,
    memory::Remembers,
    panicked,
    scope::Scope,
    survive, timed_out,
};
use crate::policy::{failure::Failure, outcome::Handled};
pub use besides::BatchContext;
pub(crate) use settle::{Attempted, settle};

/// How many events form a batch, and how long a batch waits for more events.
///
/// ```
/// use std::time::Duration;
/// use tidings::Batching;
///
/// let batching = Batching::of(500).linger(Duration::from_millis(20));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    most: usize,
    linger: Duration,
}

/// The largest batch.
const MOST: usize = 1_000;

impl Batching {
    /// At most this many events: 1 to 1 000. A batch is handed over at the latest 10 ms after its first event.
    #[must_use]
    pub const fn of(most: usize) -> Self {
        let most = match most {
            0 => 1,
            1..=MOST => most,
            _ => MOST,
        };
        Self {
            most,
            linger: Duration::from_millis(10),
        }
    }

    /// How long the first event of a batch waits for more events at most; default 10 ms.
    #[must_use]
    pub const fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    pub(crate) const fn most(&self) -> usize {
        self.most
    }

    pub(crate) const fn waits(&self) -> Duration {
        self.linger
    }
}

/// An event of a batch, with the facts of its delivery. It derefs to the event.
#[derive(Debug)]
pub struct Item<E> {
    event: E,
    delivery: Arc<Facts>,
}

impl<E> Item<E> {
    pub(crate) fn new(event: E, delivery: Arc<Facts>) -> Self {
        Self { event, delivery }
    }

    /// The event without the facts of its delivery.
    #[must_use]
    pub fn into_event(self) -> E {
        self.event
    }

    /// The event's id: the same at every delivery.
    #[must_use]
    pub fn id(&self) -> EventId {
        self.delivery.envelope.id()
    }

    /// The event's key: what the event is about.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.delivery.envelope.key()
    }

    /// When the fact happened, if its publisher stated it.
    #[must_use]
    pub fn time(&self) -> Option<DateTime<Utc>> {
        self.delivery.envelope.time()
    }

    /// The number of this attempt, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.delivery.attempt
    }

    /// Whether the event is handled again on purpose, as part of a replay.
    #[must_use]
    pub fn is_replay(&self) -> bool {
        self.delivery.replay.is_some()
    }

    /// The application's own headers.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        self.delivery.envelope.headers()
    }

    /// The whole envelope. A batch has no lineage of its own: an event that is published because of this one inherits
    /// its lineage by `envelope.caused_by(item.envelope())`.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.delivery.envelope
    }

    /// The stream and the sequence of the message that carries the event.
    #[must_use]
    pub fn stream_position(&self) -> (&str, u64) {
        (&self.delivery.stream, self.delivery.sequence)
    }
}

impl<E> Deref for Item<E> {
    type Target = E;

    fn deref(&self) -> &E {
        &self.event
    }
}

/// The results of a batch, event by event. Events that it does not name are done.
#[derive(Debug, Default)]
#[must_use = "return it: events that it does not name are done"]
pub struct BatchResult {
    failed: Vec<(EventId, Failure)>,
}

impl BatchResult {
    /// All events are done.
    pub fn done() -> Self {
        Self::default()
    }

    /// Marks an event as failed: it is retried or dead-lettered, by its failure.
    pub fn fail(&mut self, event: EventId, failure: Failure) {
        self.failed.push((event, failure));
    }

    /// The same, chained.
    pub fn failing(mut self, event: EventId, failure: Failure) -> Self {
        self.fail(event, failure);
        self
    }

    /// Takes the result of an event, once.
    pub(crate) fn take(&mut self, event: EventId) -> Result<Handled, Failure> {
        match self.failed.iter().position(|(failed, _)| *failed == event) {
            Some(at) => Err(self.failed.swap_remove(at).1),
            None => Ok(Handled::Done),
        }
    }

    /// Logs a warning when it names events that are not in the batch.
    fn warn_of_strangers(&self, events: &[EventId]) {
        let strangers = self
            .failed
            .iter()
            .filter(|(event, _)| !events.contains(event));
        for (event, failure) in strangers {
            tracing::warn!(event.id = %event, %failure, "batch result ignored: its event is not in the batch");
        }
    }
}

/// Handles events of one kind in batches. Every `async fn(Vec<Item<E>>, BatchContext<S>) -> Result<BatchResult, Failure>`
/// is a batch handler.
///
/// An error concerns all events of the batch. When there are several, and the error does not say how long to wait, they
/// are handed over again in halves, until the event at fault is alone. Therefore the effects must be idempotent.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle batches of `{E}` with state `{S}`",
    label = "not a batch handler",
    note = "a batch handler is `async fn(events: Vec<Item<{E}>>, cx: BatchContext<{S}>) -> Result<BatchResult, \
         Failure>`, and what it holds across an await is `Send`"
)]
pub trait BatchHandler<E: Event, S>: Send + Sync + 'static {
    /// Handles the events, at least one, in the order of their delivery.
    fn handle(
        &self,
        events: Vec<Item<E>>,
        cx: BatchContext<S>,
    ) -> impl Future<Output = Result<BatchResult, Failure>> + Send;
}

impl<E, S, F, Fut> BatchHandler<E, S> for F
where
    E: Event,
    F: Fn(Vec<Item<E>>, BatchContext<S>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<BatchResult, Failure>> + Send,
{
    fn handle(
        &self,
        events: Vec<Item<E>>,
        cx: BatchContext<S>,
    ) -> impl Future<Output = Result<BatchResult, Failure>> + Send {
        self(events, cx)
    }
}

/// Events of one route, to be handled together. At least one.
pub(crate) struct Batch<S> {
    pub(crate) state: Arc<S>,
    pub(crate) deliveries: Vec<Arc<Facts>>,
    pub(crate) cancelled: CancellationToken,
    /// Whether each call gets a scope; a single event has one already.
    pub(crate) has_scopes: bool,
}

impl<S> Batch<S> {
    fn context(&self) -> BatchContext<S> {
        BatchContext {
            state: Arc::clone(&self.state),
            subscriber: Arc::clone(&self.deliveries[0].subscriber),
            replay: self.deliveries[0].replay_id(),
            cancelled: self.cancelled.child_token(),
        }
    }
}

/// A batch handler whose event type is hidden behind the decoding.
pub(crate) trait ErasedBatch<S>: Send + Sync {
    fn batching(&self) -> Batching;

    /// Runs the handler as often as needed, each call within its timeout. Returns a result for each event, in order.
    fn call_batch<'a>(
        &'a self,
        batch: &'a Batch<S>,
    ) -> BoxFuture<'a, Vec<Result<Handled, Failure>>>;
}

/// How the application's part of a call with many events is run.
pub(crate) trait Call<E, S>: Send + Sync + 'static {
    /// The handler's type.
    fn name(&self) -> &'static str;

    /// Calls the handler once with these deliveries of the batch.
    fn attempt(
        &self,
        batch: &Batch<S>,
        range: Range<usize>,
    ) -> impl Future<Output = Attempted> + Send;

    fn memory(&self) -> Option<&dyn Remembers> {
        None
    }

    fn housekeeping(&self) -> Option<Housekeeping> {
        None
    }

    fn outbox(&self) -> Option<Contents<'_>> {
        None
    }
}

/// A batch handler behind both traits: a single event is a batch of one.
pub(crate) struct Many<E, C> {
    batching: Batching,
    call: C,
    event: PhantomData<fn(E)>,
}

impl<E, C> Many<E, C> {
    pub(crate) fn new(batching: Batching, call: C) -> Self {
        Self {
            batching,
            call,
            event: PhantomData,
        }
    }
}

impl<E, S, C> ErasedBatch<S> for Many<E, C>
where
    E: Event,
    S: Send + Sync + 'static,
    C: Call<E, S>,
{
    fn batching(&self) -> Batching {
        self.batching
    }

    fn call_batch<'a>(
        &'a self,
        batch: &'a Batch<S>,
    ) -> BoxFuture<'a, Vec<Result<Handled, Failure>>> {
        let attempt = move |range: Range<usize>| async move {
            if !batch.has_scopes {
                return self.call.attempt(batch, range).await;
            }
            let mut scope = Scope::of_batch(&batch.deliveries[range.clone()]);
            let attempted = scope.around(self.call.attempt(batch, range)).await;
            scope.end_batch(&attempted);
            attempted
        };
        settle(batch.deliveries.len(), attempt).boxed()
    }
}

impl<E, S, C> Erased<S> for Many<E, C>
where
    E: Event,
    S: Send + Sync + 'static,
    C: Call<E, S>,
{
    fn name(&self) -> &'static str {
        self.call.name()
    }

    fn call<'a>(
        &'a self,
        _: &Envelope,
        cx: Context<S>,
    ) -> Result<BoxFuture<'a, Result<Handled, Failure>>, serde_json::Error> {
        let call = async move {
            let batch = Batch {
                state: Arc::clone(cx.shared_state()),
                deliveries: vec![Arc::clone(cx.facts())],
                cancelled: cx.cancelled().clone(),
                has_scopes: false,
            };
            let mut settled = self.call_batch(&batch).await;
            settled.pop().unwrap_or(Ok(Handled::Done))
        };
        Ok(call.boxed())
    }

    fn decodes(&self, envelope: &Envelope) -> Result<(), serde_json::Error> {
        envelope.decode::<E>().map(drop)
    }

    fn batch(&self) -> Option<&dyn ErasedBatch<S>> {
        Some(self)
    }

    fn memory(&self) -> Option<&dyn Remembers> {
        self.call.memory()
    }

    fn housekeeping(&self) -> Option<Housekeeping> {
        self.call.housekeeping()
    }

    fn outbox(&self) -> Option<Contents<'_>> {
        self.call.outbox()
    }
}

/// A handler without a database.
pub(crate) struct Plain<H>(pub(crate) H);

impl<E, S, H> Call<E, S> for Plain<H>
where
    E: Event,
    S: Send + Sync + 'static,
    H: BatchHandler<E, S>,
{
    fn name(&self) -> &'static str {
        std::any::type_name::<H>()
    }

    async fn attempt(&self, batch: &Batch<S>, range: Range<usize>) -> Attempted {
        let mut results = Vec::with_capacity(range.len());
        let mut items = Vec::with_capacity(range.len());
        for delivery in &batch.deliveries[range] {
            results.push(decoded(delivery, &mut items));
        }
        if items.is_empty() {
            return Attempted::Each(results);
        }
        let events: Vec<EventId> = items.iter().map(Item::id).collect();
        let verdicts = match in_time(batch, |cx| self.0.handle(items, cx)).await {
            Ok(verdicts) => verdicts,
            Err(failure) => return Attempted::Together(results, failure),
        };
        Attempted::Each(judged(results, &events, verdicts))
    }
}

/// Decodes an event into `items`, or returns why it cannot be decoded.
pub(crate) fn decoded<E: Event>(
    delivery: &Arc<Facts>,
    items: &mut Vec<Item<E>>,
) -> Result<Handled, Failure> {
    let envelope = &delivery.envelope;
    let event = envelope.decode::<E>();
    let event = event.map_err(|error| Failure::undecodable(envelope, &error))?;
    items.push(Item::new(event, Arc::clone(delivery)));
    Ok(Handled::Done)
}

/// The result of each event. Events with a result other than `Done` were not handed over.
pub(crate) fn judged(
    results: Vec<Result<Handled, Failure>>,
    all: &[EventId],
    mut verdicts: BatchResult,
) -> Vec<Result<Handled, Failure>> {
    let mut events = all.iter();
    let judge = |result| match result {
        Ok(Handled::Done) => match events.next() {
            Some(event) => verdicts.take(*event),
            None => Ok(Handled::Done),
        },
        other => other,
    };
    let judged = results.into_iter().map(judge).collect();
    verdicts.warn_of_strangers(all);
    judged
}

/// Calls the application's part within its timeout. A panic is a failure of these events, not of the whole batch.
pub(crate) async fn in_time<S, Fut>(
    batch: &Batch<S>,
    call: impl FnOnce(BatchContext<S>) -> Fut,
) -> Result<BatchResult, Failure>
where
    Fut: Future<Output = Result<BatchResult, Failure>>,
{
    let timeout = batch.deliveries[0].timeout;
    let cx = batch.context();
    let cancelled = cx.cancelled.clone();
    let handling = async move { call(cx).await };
    let handling = context::replaying(batch.deliveries[0].replay.as_ref(), handling);
    let handling = AssertUnwindSafe(handling).catch_unwind();
    match tokio::time::timeout(timeout, handling).await {
        Ok(Ok(handled)) => {
            if handled.is_ok() {
                survive().await;
            }
            handled
        }
        Ok(Err(panic)) => Err(panicked(&*panic)),
        Err(_) => {
            cancelled.cancel();
            Err(timed_out(timeout))
        }
    }
}
