//! One delivery, from its arrival to its log record. Never pulls, never decides which delivery is next.

pub(crate) mod in_flight;
pub(crate) mod tally;
pub(crate) mod throttle;

mod acknowledger;
mod answer;
pub(crate) mod batch;
mod bury;
mod record;
pub(crate) mod replay;
mod wait;

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use futures::{FutureExt, future::BoxFuture};
use tidings_contract::{Envelope, wire::ReadError};
use tokio_util::sync::CancellationToken;

use self::{in_flight::InFlight, tally::Tally, throttle::Throttle};
use crate::policy::outcome;
use crate::{
    handler::{
        context::{Cancelled, Context, Facts},
        panicked,
        subscriber::EventSubscriber,
    },
    log::Lasting,
    policy::{
        breaker::{Attempted, Load, Permit},
        failure::{Failure, Verdict, told, undecodable},
        outcome::{Cause, DeadLetter, Handled, Outcome},
    },
    position::Position,
    replay::tag::Replaying,
    task::interrupt::unless,
};
pub(crate) use acknowledger::{AckError, Acknowledger};

/// How often the server is told that a delivery is in progress: a third of [`ACK_WAIT`].
pub(crate) const PROGRESS: Duration = Duration::from_secs(10);
/// After this time without an ack or a progress report, the server redelivers the message.
pub(crate) const ACK_WAIT: Duration = Duration::from_secs(30);

/// A delivery as the executor receives it.
pub(crate) struct Arrival {
    pub(crate) envelope: Result<Arc<Envelope>, ReadError>,
    /// The event's own subject, even when the message comes from the retries.
    pub(crate) subject: Arc<str>,
    /// The stream that first stored the event.
    pub(crate) stream: Arc<str>,
    pub(crate) sequence: u64,
    /// When the event was first stored.
    pub(crate) stored_at: DateTime<Utc>,
    /// The position of its message in the stream that delivered it.
    pub(crate) at: Position,
    /// The sequence of the delivery among those of its consumer, from 1.
    pub(crate) consumer_sequence: u64,
    /// How often the server has delivered the message, including this time. Not the number of attempts.
    pub(crate) delivered: u32,
    pub(crate) past: Past,
    /// The replay that the delivery is part of.
    pub(crate) replay: Option<Arc<Replaying>>,
}

/// The history of an event before this delivery.
#[derive(Debug, Clone, Default)]
pub(crate) struct Past {
    /// The number of failed attempts.
    pub(crate) failures: u32,
    pub(crate) first_failed_at: Option<DateTime<Utc>>,
    /// How often in a row it was deferred without counting an attempt.
    pub(crate) deferrals: u32,
    /// How often it was redriven.
    pub(crate) redrives: u32,
    /// The dead letter that it was last redriven from; 0 without one.
    pub(crate) redriven_from: u64,
}

/// What remains to be done about a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing: it was settled.
    Over,
    /// Nothing in this instance: it was abandoned without an answer, and is redelivered.
    Left,
    /// It is attempted again after this time, and stays in flight until then.
    Again(Duration),
}

/// Runs the deliveries of one subscriber.
pub(crate) struct Executor<S> {
    subscriber: Arc<EventSubscriber<S>>,
    name: Arc<str>,
    state: Arc<S>,
    flow: Arc<Throttle>,
    tally: Arc<Tally>,
    in_flight: Arc<InFlight>,
    /// Limits the log lines about answers that are not confirmed.
    unconfirmed: Lasting,
    /// From 0 to 1, for jitter.
    random: fn() -> f64,
}

/// How one attempt ended.
enum Ended {
    /// With the error text, if it failed.
    Decided(Outcome, Option<String>),
    /// The worker stops: there is no verdict, and no failed attempt is counted.
    HandedBack,
}

impl<S: Send + Sync + 'static> Executor<S> {
    pub(crate) fn new(subscriber: Arc<EventSubscriber<S>>, state: Arc<S>) -> Self {
        let name: Arc<str> = subscriber.name().into();
        let load = Load {
            concurrency: subscriber.concurrency,
            timeout: subscriber.timeout,
        };
        let (breaker, rate) = (subscriber.breaker, subscriber.rate);
        let flow = Throttle::new(Arc::clone(&name), breaker, load, rate);
        Self {
            name,
            subscriber,
            state,
            flow: Arc::new(flow),
            tally: Arc::default(),
            in_flight: Arc::default(),
            unconfirmed: Lasting::default(),
            random,
        }
    }

    /// Makes each delay the longest that the policy allows.
    pub(crate) fn without_jitter(mut self) -> Self {
        self.random = || 1.0;
        self
    }

    /// Registers its calls in this collection.
    pub(crate) fn among(mut self, in_flight: &Arc<InFlight>) -> Self {
        self.in_flight = Arc::clone(in_flight);
        self
    }

    /// Decides when attempts may begin.
    pub(crate) fn flow(&self) -> &Arc<Throttle> {
        &self.flow
    }

    /// Counts the outcomes.
    pub(crate) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// One attempt: decode, call, decide, acknowledge, record. When `halt` is cancelled, a running handler is dropped
    /// and the delivery is handed back. The caller has obtained the permit from the [flow](Executor::flow).
    pub(crate) async fn run(
        &self,
        arrival: &mut Arrival,
        acknowledger: &impl Acknowledger,
        halt: &CancellationToken,
        permit: Permit,
    ) -> Step {
        if let Some(uncalled) = self.uncalled(arrival) {
            let uncalled = self.without_a_call(arrival, uncalled, acknowledger, halt, permit);
            return Box::pin(uncalled).await;
        }
        if !self.takes(arrival) {
            self.flow.end(permit, &arrival.subject, Attempted::Void);
            return Box::pin(self.leave(arrival, acknowledger, halt)).await;
        }
        let attempt = arrival.past.failures.saturating_add(1);
        let envelope = match self.known(arrival) {
            Ok(envelope) => envelope,
            Err(letter) => {
                self.flow.end(permit, &arrival.subject, Attempted::Void);
                let outcome = Outcome::Reject(letter);
                acknowledger.decided(&outcome, None);
                let end = self.end(arrival, &outcome, Duration::ZERO, acknowledger, halt);
                return Box::pin(end).await;
            }
        };
        let began = Instant::now();
        // A panic in the application's code is a failed attempt; that includes decoding and the text of an error.
        let attempted =
            AssertUnwindSafe(self.attempt(arrival, envelope, attempt, halt, permit)).catch_unwind();
        let (outcome, error) = match attempted.await {
            Ok(Ended::Decided(outcome, error)) => (outcome, error),
            Ok(Ended::HandedBack) => {
                self.flow.end(permit, &arrival.subject, Attempted::Void);
                return Box::pin(self.hand_back(arrival, acknowledger, halt)).await;
            }
            Err(panic) => self.decide(Err(panicked(&*panic)), arrival, attempt, permit),
        };
        let elapsed = began.elapsed();
        let decided = (outcome, error);
        self.conclude(arrival, decided, elapsed, acknowledger, halt, permit)
            .await
    }

    /// Carries out the outcome of an attempt.
    async fn conclude(
        &self,
        arrival: &mut Arrival,
        (outcome, error): (Outcome, Option<String>),
        elapsed: Duration,
        acknowledger: &impl Acknowledger,
        halt: &CancellationToken,
        permit: Permit,
    ) -> Step {
        let attempt = arrival.past.failures.saturating_add(1);
        let outcome = self.dated(outcome, arrival, attempt);
        let (mut outcome, error) = match outcome {
            Outcome::Reject(_) => {
                let remembering = self.remember(arrival, (outcome, error), acknowledger);
                let remembering = halt.run_until_cancelled(Box::pin(remembering));
                let Some(remembered) = remembering.await else {
                    return self.hand_back(arrival, acknowledger, halt).await;
                };
                remembered
            }
            outcome => (outcome, error),
        };
        acknowledger.decided(&outcome, error.as_deref());
        self.record(arrival, attempt, &outcome, error, elapsed);
        match self.stays_for(&mut outcome, arrival, acknowledger, permit) {
            Some(wait) => Step::Again(wait),
            None => {
                self.end(arrival, &outcome, elapsed, acknowledger, halt)
                    .await
            }
        }
    }

    /// Counts a failure. In a dead letter, also records the time of the first failure and the handler.
    fn dated(&self, mut outcome: Outcome, arrival: &mut Arrival, attempt: u32) -> Outcome {
        match outcome {
            Outcome::Ack | Outcome::Duplicate => return outcome,
            Outcome::Defer(_) => {
                arrival.past.deferrals = arrival.past.deferrals.saturating_add(1);
                return outcome;
            }
            Outcome::Retry(_) | Outcome::Reject(_) => arrival.past.deferrals = 0,
        }
        arrival.past.failures = attempt;
        let first_failed_at = *arrival.past.first_failed_at.get_or_insert_with(Utc::now);
        if let Outcome::Reject(letter) = &mut outcome {
            let envelope = arrival.envelope.as_ref().ok();
            let replay = arrival.replay.as_deref();
            let route = envelope.and_then(|envelope| self.subscriber.route(envelope, replay));
            letter.first_failed_at.get_or_insert(first_failed_at);
            letter.handler = route.map(|route| route.handler.name());
        }
        outcome
    }

    /// The envelope, when the message names an event.
    fn known<'a>(&self, arrival: &'a Arrival) -> Result<&'a Arc<Envelope>, DeadLetter> {
        arrival.envelope.as_ref().map_err(|error| {
            let cause = match error {
                ReadError::Name(_) => Cause::Unknown,
                _ => Cause::Undecodable,
            };
            DeadLetter::new(cause, error, 0)
        })
    }

    fn facts(
        &self,
        arrival: &Arrival,
        envelope: &Arc<Envelope>,
        attempt: u32,
        cancelled: Cancelled,
    ) -> Facts {
        Facts {
            envelope: Arc::clone(envelope),
            subscriber: Arc::clone(&self.name),
            stream: Arc::clone(&arrival.stream),
            sequence: arrival.sequence,
            stored_at: arrival.stored_at,
            attempt,
            redrives: arrival.past.redrives,
            redriven_from: arrival.past.redriven_from,
            timeout: self.subscriber.timeout,
            cancelled,
            replay: arrival.replay.clone(),
        }
    }

    async fn attempt(
        &self,
        arrival: &Arrival,
        envelope: &Arc<Envelope>,
        attempt: u32,
        halt: &CancellationToken,
        permit: Permit,
    ) -> Ended {
        let facts = Arc::new(self.facts(arrival, envelope, attempt, Cancelled::by(halt)));
        let running = self.in_flight.begin(&self.name, envelope, 1);
        // Decoding runs application code too.
        let call = match running.inside(|| self.call(envelope, &facts)) {
            Ok(call) => running.watched(call),
            Err(letter) => {
                self.flow.end(permit, &arrival.subject, Attempted::Void);
                return Ended::Decided(Outcome::Reject(letter), None);
            }
        };
        let result = match halt.is_cancelled() {
            true => None,
            false => unless(pin!(call), || halt.cancelled()).await,
        };
        let Some(result) = result else {
            return Ended::HandedBack;
        };
        if self.fails_replay(arrival, &result) {
            return Ended::HandedBack;
        }
        let (outcome, error) = self.decide(result, arrival, attempt, permit);
        Ended::Decided(outcome, error)
    }

    /// Decides the outcome of an attempt. While the circuit is open, a failure does not count against the event.
    fn decide(
        &self,
        result: Result<Handled, Failure>,
        arrival: &Arrival,
        attempt: u32,
        permit: Permit,
    ) -> (Outcome, Option<String>) {
        let error = result.as_ref().err().map(|failure| told(failure));
        let verdict = result.as_ref().err().map(|failure| failure.verdict);
        let ended = match verdict {
            None | Some(Verdict::Reject | Verdict::RetryAfter(_)) => Attempted::Decided,
            Some(Verdict::Retry) => Attempted::Failed,
            Some(Verdict::Unavailable) => Attempted::Away,
            Some(Verdict::OutsideInbox | Verdict::Undecodable | Verdict::Undecided) => {
                Attempted::Void
            }
        };
        let counts = self.flow.end(permit, &arrival.subject, ended);
        let (deferrals, retry) = (arrival.past.deferrals, &self.subscriber.retry);
        let outcome = outcome::decide(result, attempt, deferrals, retry, (self.random)());
        let outcome = match (counts, verdict) {
            (false, Some(Verdict::Retry)) => Outcome::Defer(Duration::ZERO),
            (false, Some(Verdict::RetryAfter(after))) => Outcome::Defer(after),
            _ => outcome,
        };
        (outcome, error)
    }

    /// Decodes the event and creates the handler's future.
    fn call<'a>(
        &'a self,
        envelope: &Envelope,
        facts: &Arc<Facts>,
    ) -> Result<BoxFuture<'a, Result<Handled, Failure>>, DeadLetter> {
        let dead = |cause, error: String| DeadLetter::new(cause, &error, facts.attempt);
        let Some(route) = self.subscriber.route(envelope, facts.replay.as_deref()) else {
            return Err(dead(Cause::Unknown, self.no_handler(envelope)));
        };
        let cx = Context::new(Arc::clone(&self.state), Arc::clone(facts));
        route
            .handler
            .call(envelope, cx)
            .map_err(|error| dead(Cause::Undecodable, undecodable(envelope, &error)))
    }

    fn no_handler(&self, envelope: &Envelope) -> String {
        let (subscriber, name, version) = (&self.name, envelope.name(), envelope.version());
        format!("subscriber {subscriber} has no handler for {name} version {version}")
    }
}

/// From 0 to 1, for jitter only: the standard library seeds every `RandomState` differently.
fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 11;
    #[allow(clippy::cast_precision_loss)] // 53 bits fit
    let random = bits as f64 / (1_u64 << 53) as f64;
    random
}

#[cfg(test)]
mod tests;
