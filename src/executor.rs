//! One delivery, from its arrival to its record. Never pulls, never decides which delivery is next.

use std::{
    collections::hash_map::RandomState,
    error::Error,
    hash::{BuildHasher, Hasher},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use futures::{FutureExt, future::BoxFuture};
use tidings_contract::{Envelope, NameError};
use tokio_util::sync::CancellationToken;

use crate::{
    context::{Context, Facts},
    failure::Failure,
    outcome::{self, Cause, DeadLetter, Handled, Outcome},
    retry::Retry,
    subscriber::EventSubscriber,
};

/// How often the server hears that a delivery is still being worked on: a third of [`ACK_WAIT`].
pub(crate) const PROGRESS: Duration = Duration::from_secs(10);
/// After this much silence the server gives a delivery to somebody else.
pub(crate) const ACK_WAIT: Duration = Duration::from_secs(30);
/// The pauses between two tries of an answer.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// When an event that this replica does not handle comes again. With jitter: replicas ask in turns, and a
/// fixed wait would bring it back to the same one.
const NOT_OURS: Retry =
    Retry::exponential(Duration::from_millis(50), Duration::from_secs(5)).attempts(u32::MAX);
/// How often an answer to the server is tried before the server's own redelivery is left to work.
const ANSWER_TRIES: u32 = 3;

/// A delivery as the executor sees it.
pub(crate) struct Arrival {
    pub(crate) envelope: Result<Envelope, NameError>,
    pub(crate) subject: String,
    pub(crate) stream: String,
    pub(crate) sequence: u64,
    /// The place among the consumer's deliveries: what is missing between two was lost on its way.
    #[allow(dead_code)] // the ordered subscribers' take-over is written beside this
    pub(crate) consumer_sequence: u64,
    /// When the stream stored the message.
    pub(crate) stored_at: DateTime<Utc>,
    /// How often the server has delivered it, this time included.
    pub(crate) delivered: u32,
}

/// Why an answer did not reach the server.
pub(crate) type Unanswered = Box<dyn Error + Send + Sync>;

/// What can be answered to whoever delivered. Every answer is confirmed before its future ends,
/// progress excepted.
pub(crate) trait Acknowledger: Send + Sync + 'static {
    fn ack(&self) -> impl Future<Output = Result<(), Unanswered>> + Send;
    fn retry(&self, after: Duration) -> impl Future<Output = Result<(), Unanswered>> + Send;
    fn progress(&self) -> impl Future<Output = Result<(), Unanswered>> + Send;
    /// Stores the letter, and only then ends the delivery.
    fn dead_letter(
        &self,
        letter: &DeadLetter,
    ) -> impl Future<Output = Result<(), Unanswered>> + Send;
}

/// Runs the deliveries of one subscriber.
pub(crate) struct Executor<S> {
    subscriber: Arc<EventSubscriber<S>>,
    name: Arc<str>,
    state: Arc<S>,
    /// The drain's deadline has passed: hand back what is running.
    halt: CancellationToken,
}

/// How one attempt ended.
enum Ended {
    Decided(Outcome),
    /// The worker stops: no verdict, and no failed attempt of the handler's.
    HandedBack,
}

impl<S: Send + Sync + 'static> Executor<S> {
    pub(crate) fn new(
        subscriber: Arc<EventSubscriber<S>>,
        state: Arc<S>,
        halt: CancellationToken,
    ) -> Self {
        Self {
            name: subscriber.name().into(),
            subscriber,
            state,
            halt,
        }
    }

    /// Decode, call, decide, acknowledge, record. An ordered subscriber stays with the delivery until
    /// it is done or dead; another one gives it back to the server between attempts.
    pub(crate) async fn run(&self, arrival: Arrival, acknowledger: &impl Acknowledger) {
        let mut attempt = arrival.delivered.max(1);
        let mut postponed = 0;
        if !self.subscriber.takes(&arrival.subject) {
            return self.leave(&arrival, acknowledger).await;
        }
        let envelope = match self.known(&arrival) {
            Ok(envelope) => envelope,
            Err(letter) => {
                let outcome = Outcome::Reject(letter);
                self.record(&arrival, attempt, &outcome, Duration::ZERO);
                return self.answer(&arrival, &outcome, acknowledger).await;
            }
        };
        loop {
            let began = Instant::now();
            // Whatever of the user's panics, decoding and the text of an error included, is a failed attempt.
            let attempted = AssertUnwindSafe(self.attempt(&arrival, envelope, attempt, postponed))
                .catch_unwind();
            let outcome = match alive(attempted, acknowledger).await {
                Ok(Ended::Decided(outcome)) => outcome,
                Ok(Ended::HandedBack) => return self.hand_back(&arrival, acknowledger).await,
                Err(panic) => self.decide(Err(panicked(&*panic)), attempt, postponed),
            };
            self.record(&arrival, attempt, &outcome, began.elapsed());
            match outcome {
                Outcome::Retry(after) if self.subscriber.ordered => {
                    if !alive(self.wait(after), acknowledger).await {
                        return self.hand_back(&arrival, acknowledger).await;
                    }
                    attempt += 1;
                }
                Outcome::Postpone(after) if self.subscriber.ordered => {
                    if !alive(self.wait(after), acknowledger).await {
                        return self.hand_back(&arrival, acknowledger).await;
                    }
                    postponed += 1;
                }
                outcome => return self.answer(&arrival, &outcome, acknowledger).await,
            }
        }
    }

    /// The envelope, when the message names an event.
    fn known<'a>(&self, arrival: &'a Arrival) -> Result<&'a Envelope, DeadLetter> {
        arrival.envelope.as_ref().map_err(|error| DeadLetter {
            cause: Cause::Unknown,
            error: error.to_string(),
            attempts: 0,
            first_failed_at: None,
            handler: None,
        })
    }

    async fn attempt(
        &self,
        arrival: &Arrival,
        envelope: &Envelope,
        attempt: u32,
        postponed: u32,
    ) -> Ended {
        let facts = Arc::new(Facts {
            envelope: envelope.clone(),
            subscriber: Arc::clone(&self.name),
            stream: arrival.stream.clone(),
            sequence: arrival.sequence,
            stored_at: arrival.stored_at,
            attempt,
            timeout: self.subscriber.timeout,
            cancelled: self.halt.child_token(),
        });
        let call = match self.call(envelope, &facts) {
            Ok(call) => call,
            Err(letter) => return Ended::Decided(Outcome::Reject(letter)),
        };
        let result = self.unless_halted(call).await;
        let Some(result) = result else {
            return Ended::HandedBack;
        };
        Ended::Decided(self.decide(result, attempt, postponed))
    }

    fn decide(&self, result: Result<Handled, Failure>, attempt: u32, postponed: u32) -> Outcome {
        outcome::decide(result, attempt, postponed, &self.subscriber.retry, random())
    }

    /// Decodes the event and makes the handler's future.
    fn call<'a>(
        &'a self,
        envelope: &Envelope,
        facts: &Arc<Facts>,
    ) -> Result<BoxFuture<'a, Result<Handled, Failure>>, DeadLetter> {
        let dead = |cause, error| DeadLetter {
            cause,
            error,
            attempts: facts.attempt,
            first_failed_at: None,
            handler: None,
        };
        let Some(route) = self.subscriber.route(envelope) else {
            let error = format!(
                "subscriber {} has no handler for {} version {}",
                self.name,
                envelope.name(),
                envelope.version()
            );
            return Err(dead(Cause::Unknown, error));
        };
        let cx = Context::new(Arc::clone(&self.state), Arc::clone(facts));
        route
            .handler
            .call(envelope, cx)
            .map_err(|error| dead(Cause::Undecodable, error.to_string()))
    }

    /// Runs a call; `None` when the worker halts first.
    async fn unless_halted(
        &self,
        call: BoxFuture<'_, Result<Handled, Failure>>,
    ) -> Option<Result<Handled, Failure>> {
        tokio::select! {
            handled = call => Some(handled),
            () = self.halt.cancelled() => None,
        }
    }

    /// Waits in place; false when the worker halts first.
    async fn wait(&self, after: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(after) => true,
            () = self.halt.cancelled() => false,
        }
    }

    /// Answers until it is confirmed. An ordered subscriber stays with it: its lane must not go on while the
    /// server may deliver this event again. Another one leaves it to that delivery after a few tries.
    async fn answer(&self, arrival: &Arrival, outcome: &Outcome, acknowledger: &impl Acknowledger) {
        let mut pause = FIRST_PAUSE;
        for tried in 1_u32.. {
            let answered = match outcome {
                Outcome::Ack | Outcome::Duplicate => acknowledger.ack().await,
                Outcome::Retry(after) | Outcome::Postpone(after) => {
                    acknowledger.retry(*after).await
                }
                Outcome::Reject(letter) => acknowledger.dead_letter(letter).await,
            };
            let Err(error) = answered else { return };
            tracing::warn!(
                subscriber = &*self.name,
                sequence = arrival.sequence,
                outcome = outcome.as_str(),
                tried,
                %error,
                "the server did not confirm the outcome: without it the event comes again"
            );
            let is_enough = tried >= ANSWER_TRIES && !self.subscriber.ordered;
            if is_enough || !alive(self.wait(pause), acknowledger).await {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Leaves an event to another replica: a newer one may have made the durable wider.
    async fn leave(&self, arrival: &Arrival, acknowledger: &impl Acknowledger) {
        tracing::warn!(
            subscriber = &*self.name,
            subject = arrival.subject,
            "the durable delivers a name that this replica does not handle: it is left to another one"
        );
        let after = NOT_OURS.delay(arrival.delivered, random());
        let outcome = Outcome::Retry(after.unwrap_or_default());
        self.answer(arrival, &outcome, acknowledger).await;
    }

    async fn hand_back(&self, arrival: &Arrival, acknowledger: &impl Acknowledger) {
        tracing::info!(
            subscriber = &*self.name,
            sequence = arrival.sequence,
            "the worker stops: the event is handed back"
        );
        self.answer(arrival, &Outcome::Retry(Duration::ZERO), acknowledger)
            .await;
    }

    /// The one log event of a delivery's attempt.
    fn record(&self, arrival: &Arrival, attempt: u32, outcome: &Outcome, elapsed: Duration) {
        macro_rules! log {
            ($level:ident, $($more:tt)*) => {
                tracing::$level!(
                    subscriber = &*self.name,
                    event.id = arrival.envelope.as_ref().ok().map(|e| tracing::field::display(e.id())),
                    event.name = arrival.envelope.as_ref().map_or(&*arrival.subject, |e| e.name().as_str()),
                    key = arrival.envelope.as_ref().ok().and_then(Envelope::key),
                    stream = arrival.stream,
                    sequence = arrival.sequence,
                    attempt,
                    outcome = outcome.as_str(),
                    elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
                    $($more)*
                )
            };
        }
        match outcome {
            Outcome::Ack => log!(debug, "handled"),
            Outcome::Duplicate => log!(debug, "handled before"),
            Outcome::Retry(after) => log!(warn, retry_after = ?after, "failed: it is tried again"),
            Outcome::Postpone(after) => {
                log!(warn, retry_after = ?after, "what the handler needs is not there: it is tried again");
            }
            Outcome::Reject(letter) => {
                log!(
                    error,
                    cause = letter.cause.as_str(),
                    error = letter.error,
                    "dead letter"
                );
            }
        }
    }
}

/// Runs `work` and tells the server every [`PROGRESS`] that the delivery is still in hand.
async fn alive<T>(work: impl Future<Output = T>, acknowledger: &impl Acknowledger) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::time::sleep(PROGRESS) => {
                if let Err(error) = acknowledger.progress().await {
                    tracing::warn!(%error, "progress could not be told: the event may come again");
                }
            }
        }
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Failure {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    Failure::retry(format!("the handler panicked: {text}"))
}

/// From 0 to 1, for jitter only: the standard library seeds every `RandomState` anew.
fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 11;
    #[allow(clippy::cast_precision_loss)] // 53 bits fit
    let random = bits as f64 / (1_u64 << 53) as f64;
    random
}
