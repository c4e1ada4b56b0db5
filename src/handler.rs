//! What an application writes to handle an event, and how it is called without its type.

pub(crate) mod context;
pub(crate) mod housekeeping;
pub(crate) mod subscriber;

pub(crate) mod batch;
pub(crate) mod memory;
pub(crate) mod scope;

use std::{any::Any, error::Error, marker::PhantomData, pin::pin, sync::Arc, time::Duration};

use futures::future::{BoxFuture, FutureExt};
use tidings_contract::{Envelope, Event};
use tokio::sync::Notify;

pub use self::{
    batch::{BatchContext, BatchHandler, BatchResult, Batching, Item},
    context::Context,
    subscriber::{EventSubscriber, OnExhausted, SubscriberError},
};
use self::{context::Facts, housekeeping::Housekeeping};
pub use crate::policy::outcome::{Cause, DeadLetter, Outcome};
use crate::{
    policy::{failure::Failure, outcome::Handled},
    task::interrupt::unless,
};
use batch::ErasedBatch;
use memory::Remembers;

/// Handles one kind of event. Every `async fn(E, Context<S>) -> Result<(), Failure>` is a handler. Implement the trait
/// for a struct when a handler needs fields.
///
/// A handler is called again after a failure, a crash or a lost ack. Make its effect idempotent, for instance by
/// [`Context::event_id`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle `{E}` with state `{S}`",
    label = "not a handler",
    note = "a handler is `async fn(event: {E}, cx: Context<{S}>) -> Result<(), Failure>`, and what it holds across an await is `Send`"
)]
pub trait Handler<E: Event, S>: Send + Sync + 'static {
    /// Handles the event. `Ok` acknowledges it; [`Failure`] describes the effect of an error.
    fn handle(&self, event: E, cx: Context<S>) -> impl Future<Output = Result<(), Failure>> + Send;
}

impl<E, S, F, Fut> Handler<E, S> for F
where
    E: Event,
    F: Fn(E, Context<S>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Failure>> + Send,
{
    fn handle(&self, event: E, cx: Context<S>) -> impl Future<Output = Result<(), Failure>> + Send {
        self(event, cx)
    }
}

/// A handler whose event type is hidden behind the decoding.
pub(crate) trait Erased<S>: Send + Sync {
    /// The handler's type, such as `service::mail::welcome`.
    fn name(&self) -> &'static str;

    /// Decodes the event. The returned future runs the handler within its timeout.
    fn call<'a>(
        &'a self,
        envelope: &Envelope,
        cx: Context<S>,
    ) -> Result<BoxFuture<'a, Result<Handled, Failure>>, serde_json::Error>;

    /// Whether the event decodes.
    fn decodes(&self, envelope: &Envelope) -> Result<(), serde_json::Error>;

    /// The same handler for many events, when it is a batch handler.
    fn batch(&self) -> Option<&dyn ErasedBatch<S>> {
        None
    }

    /// The inbox that remembers the events of the handler, if it has one.
    fn memory(&self) -> Option<&dyn Remembers> {
        None
    }

    /// The maintenance that the handler needs while the worker runs.
    fn housekeeping(&self) -> Option<Housekeeping> {
        None
    }

    /// The contents of the outbox that it writes to, if it has one.
    fn outbox(&self) -> Option<Contents<'_>> {
        None
    }
}

/// The contents of an outbox.
pub(crate) struct Contents<'a> {
    /// Identifies the outbox: handlers may share one.
    pub(crate) of: usize,
    pub(crate) events: BoxFuture<'a, Result<Vec<Envelope>, Box<dyn Error + Send + Sync>>>,
}

/// Runs the application's part of a call within its timeout. What it publishes inherits the delivery's lineage. Other
/// work of the call, such as opening a transaction, does not use up the timeout.
pub(crate) async fn within(
    facts: &Arc<Facts>,
    handler: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let handling = pin!(context::handling(Arc::clone(facts), handler));
    match unless(handling, || tokio::time::sleep(facts.timeout)).await {
        Some(Ok(())) => {
            survive().await;
            Ok(())
        }
        Some(failed) => failed,
        None => {
            facts.cancelled.token().cancel();
            Err(timed_out(facts.timeout))
        }
    }
}

tokio::task_local! {
    /// Set by tests only: simulates that the process dies after a handler has succeeded.
    pub(crate) static DIES: Arc<Notify>;
}

/// The point between a handler's success and what follows from it.
async fn survive() {
    if let Ok(dies) = DIES.try_with(Arc::clone) {
        dies.notify_one();
        std::future::pending().await
    }
}

pub(crate) fn timed_out(timeout: Duration) -> Failure {
    Failure::timeout(format!("the handler took longer than {timeout:?}"))
}

pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    Failure::panic(format!("the handler panicked: {text}"))
}

pub(crate) struct Typed<E, H> {
    handler: H,
    event: PhantomData<fn(E)>,
}

impl<E, H> Typed<E, H> {
    pub(crate) fn new(handler: H) -> Self {
        Self {
            handler,
            event: PhantomData,
        }
    }
}

impl<E, S, H> Erased<S> for Typed<E, H>
where
    E: Event,
    S: Send + Sync + 'static,
    H: Handler<E, S>,
{
    fn name(&self) -> &'static str {
        std::any::type_name::<H>()
    }

    fn call<'a>(
        &'a self,
        envelope: &Envelope,
        cx: Context<S>,
    ) -> Result<BoxFuture<'a, Result<Handled, Failure>>, serde_json::Error> {
        let event = envelope.decode::<E>()?;
        let call = async move {
            let facts = Arc::clone(cx.facts());
            within(&facts, self.handler.handle(event, cx)).await?;
            Ok(Handled::Done)
        };
        Ok(call.boxed())
    }

    fn decodes(&self, envelope: &Envelope) -> Result<(), serde_json::Error> {
        envelope.decode::<E>().map(drop)
    }
}
