//! Transactional handlers: their effect happens once, in the transaction that remembers the event. Never handles an
//! event that the inbox remembers.

use std::{marker::PhantomData, sync::Arc};

use futures::future::{BoxFuture, FutureExt};
use tidings_contract::{Envelope, Event};

use super::{Begun, Inbox, InboxTransaction, housekeeping::housekeeping};
use crate::{
    handler::{
        Contents, Erased, context::Context, housekeeping::Housekeeping, memory::Remembers,
        subscriber::EventSubscriber, within,
    },
    outbox::{Outbox, Store},
    policy::{failure::Failure, outcome::Handled},
};

/// Handles one kind of event in a transaction that remembers it. Every
/// `async fn(E, InboxTransaction<DB>, Context<S>) -> Result<(), Failure>` is one; implement it for a struct when
/// a handler has fields of its own.
///
/// What it does through the transaction happens once, however often the event is delivered. Any other effect, such
/// as sending a mail, may be repeated after a failure or a crash.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a transactional handler of `{E}`, in `{DB}` and with state `{S}`",
    label = "not a transactional handler",
    note = "such a handler is `async fn(event: {E}, tx: InboxTransaction<{DB}>, cx: Context<{S}>) -> Result<(), Failure>`, and what it holds across an await is `Send`"
)]
pub trait TransactionalHandler<E: Event, DB: Store, S>: Send + Sync + 'static {
    /// Handles the event. `Ok` commits and acknowledges it. On an error nothing is committed, and the [`Failure`]
    /// decides what follows.
    fn handle(
        &self,
        event: E,
        tx: InboxTransaction<DB>,
        cx: Context<S>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

impl<E, DB, S, F, Fut> TransactionalHandler<E, DB, S> for F
where
    E: Event,
    DB: Store,
    F: Fn(E, InboxTransaction<DB>, Context<S>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Failure>> + Send,
{
    fn handle(
        &self,
        event: E,
        tx: InboxTransaction<DB>,
        cx: Context<S>,
    ) -> impl Future<Output = Result<(), Failure>> + Send {
        self(event, tx, cx)
    }
}

impl<S: Send + Sync + 'static> EventSubscriber<S> {
    /// Adds a handler whose effect in this database happens once: see [`TransactionalHandler`]. An event that the inbox
    /// remembers is acknowledged without a call. The inbox identifies the subscriber by its name, and each event by
    /// its id.
    ///
    /// The inbox also remembers a dead-lettered event, before the dead letter is stored: the handler is not called
    /// for this event again, however often it is delivered, until it is redriven.
    ///
    /// The inbox remembers the events of the last 13 days, each by the event's own time: the time in its id, which
    /// Tidings makes; else the `ce-time` that a foreign publisher states; else when the stream stored it. An older
    /// event is dead-lettered with the cause `outside-inbox`, because the inbox cannot tell whether it was handled.
    #[must_use]
    pub fn on_transactional<E, DB, H>(self, outbox: &Outbox<DB>, handler: H) -> Self
    where
        E: Event,
        DB: Store,
        H: TransactionalHandler<E, DB, S>,
    {
        self.routed::<E>(Once {
            inbox: Inbox::new(outbox.clone()),
            handler,
            event: PhantomData::<fn(E)>,
        })
    }
}

struct Once<E, DB: Store, H> {
    inbox: Inbox<DB>,
    handler: H,
    event: PhantomData<fn(E)>,
}

impl<E, DB, S, H> Erased<S> for Once<E, DB, H>
where
    E: Event,
    DB: Store,
    S: Send + Sync + 'static,
    H: TransactionalHandler<E, DB, S>,
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
        Ok(self.handle(event, cx).boxed())
    }

    fn memory(&self) -> Option<&dyn Remembers> {
        Some(&self.inbox)
    }

    fn decodes(&self, envelope: &Envelope) -> Result<(), serde_json::Error> {
        envelope.decode::<E>().map(drop)
    }

    fn housekeeping(&self) -> Option<Housekeeping> {
        Some(housekeeping(&self.inbox.outbox))
    }

    fn outbox(&self) -> Option<Contents<'_>> {
        Some(Contents {
            of: Arc::as_ptr(&self.inbox.outbox.shared).addr(),
            events: self.inbox.outbox.contents().boxed(),
        })
    }
}

impl<E: Event, DB: Store, H> Once<E, DB, H> {
    async fn handle<S>(&self, event: E, cx: Context<S>) -> Result<Handled, Failure>
    where
        H: TransactionalHandler<E, DB, S>,
    {
        let facts = Arc::clone(cx.facts());
        let _writer = self.inbox.writer().await?;
        let tx = match self.inbox.begin(&facts).await? {
            Begun::New(tx) => tx,
            Begun::Already => return Ok(Handled::Already),
            Begun::DeadLettered(letter) => return Ok(Handled::DeadLettered(letter.into())),
        };
        let backend = tx.backend();
        let (tx, lent) = InboxTransaction::lend(tx);
        let handling = within(&facts, self.handler.handle(event, tx, cx));
        let handled = match self.inbox.handled(backend, handling).await {
            Ok(handled) => handled,
            Err(lost) => {
                facts.cancelled.token().cancel();
                if let Some(tx) = lent.back() {
                    tx.close();
                }
                return Err(lost);
            }
        };
        match (handled, lent.back()) {
            (Ok(()), Some(tx)) => self.inbox.commit(tx).await.map(|()| Handled::Done),
            (Ok(()), None) => Err(super::leaked()),
            (Err(failure), Some(tx)) => Err(self.inbox.roll_back(tx, failure).await),
            (Err(failure), None) => Err(failure),
        }
    }
}
