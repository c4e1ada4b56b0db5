//! Whether a handler may be run again for the same event. Never makes it so.

use std::{
    fmt::{self, Debug},
    sync::Arc,
};

use tidings_contract::{Envelope, IntoEnvelope};

use super::{
    fate::Death,
    worker::{TestWorker, envelope_of},
};

/// The most awaits of a handler that are tried.
const MOST_AWAITS: u32 = 32;

/// Asserts that handling an event twice, because the process died in the middle, has the same effect as handling it
/// once. Processes die and acks get lost; then the event is redelivered, and the handler has to tolerate that.
///
/// `setup` creates a worker and everything that its handlers change, afresh on each call. `observe` returns what they
/// have changed, as a value that is equal whenever the effect was the same: a count, a sum, a sorted list; no times and
/// no random ids. It lets the worker go before it returns. It is called first after one run. Then, each time with a
/// worker of its own, the process dies: before the ack; right after the handler, before its transaction commits; at each
/// await of the attempt, up to 32. The event is redelivered, and `observe` has to return the same.
///
/// The future can be spawned when the futures of `setup` and `observe` can. Both may borrow from their surroundings.
///
/// ```
/// use std::sync::Arc;
///
/// use serde::{Deserialize, Serialize};
/// use tidings::{
///     Context, Event, EventSubscriber, Failure, InboxTransaction, Outbox,
///     testing::{TestWorker, assert_idempotent},
/// };
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(name = "payment.received", version = 1, key = account)]
/// struct PaymentReceived {
///     account: String,
///     cents: i64,
/// }
///
/// async fn book(
///     event: PaymentReceived,
///     mut tx: InboxTransaction<sqlx::Sqlite>,
///     _: Context<Outbox<sqlx::Sqlite>>,
/// ) -> Result<(), Failure> {
///     sqlx::query("update account set cents = cents + ? where id = ?")
///         .bind(event.cents)
///         .bind(&event.account)
///         .execute(&mut *tx)
///         .await?;
///     Ok(())
/// }
///
/// async fn worker() -> TestWorker<Outbox<sqlx::Sqlite>> {
///     let outbox = Outbox::temporary().await.unwrap();
///     let tables = "create table account (id text, cents integer); insert into account values ('ada', 0)";
///     sqlx::raw_sql(tables).execute(outbox.pool()).await.unwrap();
///     let subscriber = EventSubscriber::durable("ledger").on_transactional(&outbox, book);
///     TestWorker::new(subscriber, outbox)
/// }
///
/// async fn balance(worker: Arc<TestWorker<Outbox<sqlx::Sqlite>>>) -> i64 {
///     let sum = sqlx::query_scalar("select cents from account where id = 'ada'");
///     sum.fetch_one(worker.state().pool()).await.unwrap()
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let event = PaymentReceived { account: "ada".into(), cents: 100 };
/// assert_idempotent(&event, worker, balance).await;
/// # }
/// ```
///
/// # Panics
/// When the effect differs; the message has both observations and the cure. Also when the check could not fail: the
/// handler does not succeed, `observe` does not see its effect, or `setup` does not start afresh.
pub async fn assert_idempotent<S, T, Setup, Observe>(
    event: impl IntoEnvelope,
    setup: impl Fn() -> Setup,
    observe: impl Fn(Arc<TestWorker<S>>) -> Observe,
) where
    S: Send + Sync + 'static,
    T: PartialEq + Debug,
    Setup: Future<Output = TestWorker<S>>,
    Observe: Future<Output = T>,
{
    let check = Check {
        envelope: envelope_of(event),
        setup,
        observe,
    };
    let (before, once) = check.once().await;
    for death in [Death::BeforeTheAck, Death::AfterTheHandler] {
        let died = check.twice(death, &before, &once).await;
        assert!(
            died,
            "{}: its handler was not called the second time",
            check.envelope.name()
        );
    }
    for at in 1..=MOST_AWAITS {
        if !check.twice(Death::AtAwait(at), &before, &once).await {
            return;
        }
    }
}

// The futures of the closures are types of their own, and no `AsyncFn`: of that, rustc cannot tell that it is `Send` when
// a closure borrows (rust-lang/rust#110338), and the check could not run in a spawned task.
struct Check<A, B> {
    envelope: Envelope,
    setup: A,
    observe: B,
}

impl<A, B> Check<A, B> {
    /// The observations before and after one run.
    async fn once<S, T, Setup, Observe>(&self) -> (T, T)
    where
        S: Send + Sync + 'static,
        T: PartialEq + Debug,
        A: Fn() -> Setup,
        B: Fn(Arc<TestWorker<S>>) -> Observe,
        Setup: Future<Output = TestWorker<S>>,
        Observe: Future<Output = T>,
    {
        let mut worker = Arc::new((self.setup)().await);
        let before = (self.observe)(Arc::clone(&worker)).await;
        let handler = worker.handler_of(&self.envelope);
        self.handle(own(&mut worker, handler)).await;
        let once = (self.observe)(worker).await;
        assert!(
            before != once,
            "the check of {handler} sees no effect: before and after the event was handled, `observe` returned {once:?}",
        );
        (before, once)
    }

    /// Kills the process at that point, and delivers the event again; false when the handling ends before that point.
    async fn twice<S, T, Setup, Observe>(&self, death: Death, before: &T, once: &T) -> bool
    where
        S: Send + Sync + 'static,
        T: PartialEq + Debug,
        A: Fn() -> Setup,
        B: Fn(Arc<TestWorker<S>>) -> Observe,
        Setup: Future<Output = TestWorker<S>>,
        Observe: Future<Output = T>,
    {
        let mut worker = Arc::new((self.setup)().await);
        let handler = worker.handler_of(&self.envelope);
        let begun = (self.observe)(Arc::clone(&worker)).await;
        assert!(
            begun == *before,
            "the check of {handler} does not start afresh: `observe` returned {before:?} before the first run, and \
             now {begun:?}; let `setup` create everything that the handler changes"
        );
        let running = own(&mut worker, handler);
        if !running.deliver_to_death(&self.envelope, death).await {
            return false;
        }
        self.handle(running).await;
        let has_inbox = worker.has_inbox(&self.envelope);
        let twice = (self.observe)(worker).await;
        assert!(
            twice == *once,
            "{handler} is not idempotent: the process died {death}, {} was redelivered, and then `observe` \
             returned\n  {twice:?}\nwhile after one run it returned\n  {once:?}\n{}",
            self.envelope.name(),
            death.cure(has_inbox),
        );
        true
    }

    async fn handle<S: Send + Sync + 'static>(&self, worker: &mut TestWorker<S>) {
        let delivered = worker.deliver(self.envelope.clone()).await;
        assert!(
            delivered.is_done(),
            "the check of {} needs a state in which the handler succeeds at once: {delivered:?}",
            worker.handler_of(&self.envelope)
        );
    }
}

/// The worker, after an observation.
fn own<'w, S>(worker: &'w mut Arc<TestWorker<S>>, handler: &str) -> &'w mut TestWorker<S> {
    match Arc::get_mut(worker) {
        Some(worker) => worker,
        None => panic!(
            "the check of {handler} still has the worker after `observe` has returned: let it go there"
        ),
    }
}

impl Death {
    fn cure(self, has_inbox: bool) -> &'static str {
        if has_inbox {
            return "What a transactional handler does outside its transaction happens again: do it in the \
                 transaction, or publish an event there whose handler does it, or use `cx.event_id()` as its \
                 idempotency key.";
        }
        "Handle it with `.on_transactional(&outbox, ...)`, which commits the effect and the inbox row together; or \
         let `cx.event_id()` be the key of the effect: `insert ... on conflict do nothing`, or the idempotency key \
         of the service that it calls."
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeforeTheAck => f.write_str("between the effect and the acknowledgement"),
            Self::AfterTheHandler => {
                f.write_str("after the handler and before what follows, such as a commit")
            }
            Self::AtAwait(at) => write!(f, "in the handler, at its await number {at}"),
        }
    }
}
