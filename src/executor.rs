//! One delivery, from the first attempt to its answer. Never pulls, never decides which delivery is next.

pub(crate) mod in_flight;
pub(crate) mod tally;
pub(crate) mod throttle;

mod acknowledger;
mod answer;
mod attempt;
pub(crate) mod batch;
mod dead_letter;
mod delivery;
mod record;
pub(crate) mod replay;
mod wait;

use std::{
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use tidings_contract::Envelope;

use self::{in_flight::InFlight, tally::Tally, throttle::Throttle};
use crate::{
    handler::{
        context::{Cancelled, Context, Facts},
        panicked,
        scope::Scope,
        subscriber::{EventSubscriber, Route},
    },
    observer::{DeliveryEnd, Observers},
    policy::{
        breaker::{Attempted, Load},
        failure::{Failure, Fault, Verdict, told, undecodable},
        outcome::{self, Cause, DeadLetter, Handled, Outcome},
    },
    task::interrupt::unless,
};
pub(crate) use acknowledger::{AckError, Acknowledger};
pub(crate) use attempt::Attempt;
pub(crate) use delivery::{Delivery, Past};
pub(crate) use record::Ends;

/// How often the server is told that a delivery is in progress: a third of [`ACK_WAIT`].
pub(crate) const PROGRESS: Duration = Duration::from_secs(10);
/// After this time without an ack or a progress report, the server redelivers the message.
pub(crate) const ACK_WAIT: Duration = Duration::from_secs(30);

/// What remains to be done about a delivery after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// Nothing: it was settled.
    Settled,
    /// Nothing in this instance: it was abandoned without an answer, and is redelivered.
    Abandoned,
    /// It is attempted again after this time, and stays in flight until then.
    RetryLocally(Duration),
}

/// Runs the deliveries of one subscriber.
pub(crate) struct Executor<S> {
    subscriber: Arc<EventSubscriber<S>>,
    name: Arc<str>,
    state: Arc<S>,
    throttle: Arc<Throttle>,
    tally: Arc<Tally>,
    in_flight: Arc<InFlight>,
    ends: Ends,
    /// From 0 to 1, for jitter.
    random: fn() -> f64,
}

/// How a call of a handler ended.
enum Ended {
    Decided(Decided),
    /// The worker stops: there is no verdict, and no failed attempt is counted.
    HandedBack,
}

/// The outcome of an attempt.
struct Decided {
    outcome: Outcome,
    /// The error text, if it failed.
    error: Option<String>,
    /// What has failed it.
    fault: Option<Fault>,
}

impl<S: Send + Sync + 'static> Executor<S> {
    /// Also counts what it tells the observers.
    pub(crate) fn new(
        subscriber: Arc<EventSubscriber<S>>,
        state: Arc<S>,
        observers: &Observers,
    ) -> Self {
        let tally: Arc<Tally> = Arc::default();
        let names: Vec<&'static str> = subscriber.event_names().collect();
        let observers = observers.of_subscriber(subscriber.name(), &names);
        let observers = observers.and(Arc::clone(&tally) as _);
        let name: Arc<str> = subscriber.name().into();
        let load = Load {
            concurrency: subscriber.concurrency,
            timeout: subscriber.timeout,
        };
        let (breaker, rate) = (subscriber.breaker, subscriber.rate);
        let throttle = Throttle::new(Arc::clone(&name), breaker, load, rate, observers.clone());
        let ends = Ends {
            subscriber: Arc::clone(&name),
            observers,
        };
        Self {
            name,
            subscriber,
            state,
            throttle: Arc::new(throttle),
            tally,
            in_flight: Arc::default(),
            ends,
            random: wait::random,
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
    pub(crate) fn throttle(&self) -> &Arc<Throttle> {
        &self.throttle
    }

    /// Told how each delivery ends.
    pub(crate) fn observers(&self) -> &Observers {
        &self.ends.observers
    }

    /// What the ends outside of an attempt pass.
    pub(crate) fn ends(&self) -> &Ends {
        &self.ends
    }

    /// Counts the outcomes.
    pub(crate) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// One attempt: decode, call, decide, acknowledge, record. When the worker halts, a running handler is dropped and
    /// the delivery is handed back.
    pub(crate) async fn run<A: Acknowledger>(&self, attempt: Attempt<'_, A>) -> Disposition {
        if let Some(uncalled) = self.uncalled(attempt.delivery) {
            return Box::pin(self.without_a_call(attempt, uncalled)).await;
        }
        if !self.takes(attempt.delivery) {
            self.pass(&attempt);
            return Box::pin(self.leave(attempt)).await;
        }
        let envelope = match &attempt.delivery.envelope {
            Ok(envelope) => envelope,
            Err(error) => {
                let letter = dead_letter::unreadable(error);
                return Box::pin(self.reject_unread(attempt, letter)).await;
            }
        };
        let began = Instant::now();
        // A panic in the application's code is a failed attempt; that includes decoding and the text of an error.
        let handled = AssertUnwindSafe(self.handle(&attempt, envelope)).catch_unwind();
        let decided = match handled.await {
            Ok(Ended::Decided(decided)) => decided,
            Ok(Ended::HandedBack) => {
                self.pass(&attempt);
                return Box::pin(self.hand_back(&attempt)).await;
            }
            Err(panic) => self.decide(&attempt, Err(panicked(&*panic))),
        };
        self.conclude(attempt, decided, began.elapsed()).await
    }

    /// Calls the handler.
    async fn handle<A>(&self, attempt: &Attempt<'_, A>, envelope: &Arc<Envelope>) -> Ended {
        let facts = self.facts(attempt.delivery, envelope, Cancelled::by(attempt.halt));
        let facts = Arc::new(facts);
        let running = self.in_flight.begin(&self.name, envelope, 1);
        let mut scope = Scope::of_one(&facts);
        // Decoding runs application code too.
        let call = match running.inside(|| scope.inside(|| self.call(envelope, &facts))) {
            Ok(call) => running.watched(scope.around(call)),
            Err(letter) => {
                self.pass(attempt);
                let error = match letter.cause {
                    Cause::Unknown => "unknown",
                    _ => "undecodable",
                };
                let outcome = Outcome::Reject(letter);
                scope.end(outcome.as_str(), Some(error));
                return Ended::Decided(Decided {
                    outcome,
                    error: None,
                    fault: None,
                });
            }
        };
        let result = match attempt.halt.is_cancelled() {
            true => {
                drop(call);
                None
            }
            false => unless(pin!(call), || attempt.halt.cancelled()).await,
        };
        match result {
            Some(result) if !self.fails_replay(attempt.delivery, &result) => {
                let failure = result.as_ref().err().map(Failure::kind);
                let decided = self.decide(attempt, result);
                scope.end(decided.outcome.as_str(), failure);
                Ended::Decided(decided)
            }
            _ => Ended::HandedBack,
        }
    }

    /// Counts the outcome of an attempt in the event's history, and carries it out.
    async fn conclude<A: Acknowledger>(
        &self,
        mut attempt: Attempt<'_, A>,
        mut decided: Decided,
        elapsed: Duration,
    ) -> Disposition {
        let number = attempt.delivery.next_attempt();
        let past = &mut attempt.delivery.past;
        match decided.outcome {
            Outcome::Ack | Outcome::Duplicate => {}
            Outcome::Defer(_) => past.note_deferral(),
            Outcome::Retry(_) => {
                past.note_failure();
                past.failures = number;
            }
            Outcome::Reject(mut letter) => {
                let first_failed_at = past.note_failure();
                letter.first_failed_at.get_or_insert(first_failed_at);
                letter.handler = self.handler_of(attempt.delivery);
                let (halt, fault) = (attempt.halt, decided.fault);
                let remembering = Box::pin(self.remember(&mut attempt, letter, decided.error));
                decided = match halt.run_until_cancelled(remembering).await {
                    Some(remembered) => Decided {
                        fault,
                        ..remembered
                    },
                    None => return self.hand_back(&attempt).await,
                };
            }
        }
        self.carry_out(attempt, number, decided, elapsed).await
    }

    /// Records an outcome, and answers, unless the event waits for its next attempt in flight.
    async fn carry_out<A: Acknowledger>(
        &self,
        attempt: Attempt<'_, A>,
        number: u32,
        Decided {
            mut outcome,
            error,
            fault,
        }: Decided,
        elapsed: Duration,
    ) -> Disposition {
        let decided = DeliveryEnd::Decided {
            attempt: number,
            outcome: &outcome,
            error: error.as_deref(),
            fault,
            elapsed,
        };
        self.record(attempt.delivery, decided);
        match self.stays_for(&attempt, &mut outcome) {
            Some(wait) => Disposition::RetryLocally(wait),
            None => self.end(&attempt, &outcome, elapsed).await,
        }
    }

    /// Dead-letters a message that is not an event. No handler is called, and so no inbox knows it.
    async fn reject_unread<A: Acknowledger>(
        &self,
        attempt: Attempt<'_, A>,
        letter: DeadLetter,
    ) -> Disposition {
        self.pass(&attempt);
        let decided = Decided {
            outcome: Outcome::Reject(letter),
            error: None,
            fault: None,
        };
        self.carry_out(attempt, 0, decided, Duration::ZERO).await
    }

    fn facts(&self, delivery: &Delivery, envelope: &Arc<Envelope>, cancelled: Cancelled) -> Facts {
        Facts {
            envelope: Arc::clone(envelope),
            subscriber: Arc::clone(&self.name),
            stream: Arc::clone(&delivery.stream),
            sequence: delivery.sequence,
            stored_at: delivery.stored_at,
            attempt: delivery.next_attempt(),
            first_failed_at: delivery.past.first_failed_at,
            redrives: delivery.past.redrives,
            redriven_from: delivery.past.redriven_from,
            timeout: self.subscriber.timeout,
            cancelled,
            replay: delivery.replay.clone(),
        }
    }

    /// Decides the outcome of an attempt. While the circuit is open, a failure does not count against the event.
    fn decide<A>(&self, attempt: &Attempt<'_, A>, result: Result<Handled, Failure>) -> Decided {
        let Delivery { subject, past, .. } = &*attempt.delivery;
        let error = result.as_ref().err().map(|failure| told(failure));
        let verdict = result.as_ref().err().map(|failure| failure.verdict);
        let fault = result.as_ref().err().map(Failure::fault);
        let ended = match verdict {
            None | Some(Verdict::Reject | Verdict::RetryAfter(_)) => Attempted::Decided,
            Some(Verdict::Retry) => Attempted::Failed,
            Some(Verdict::Unavailable) => Attempted::Away,
            Some(Verdict::OutsideInbox | Verdict::Undecodable | Verdict::Undecided) => {
                Attempted::Void
            }
        };
        let counts = self
            .throttle
            .end(attempt.permit, subject, ended, error.as_deref());
        let (number, retry) = (attempt.delivery.next_attempt(), &self.subscriber.retry);
        let outcome = outcome::decide(result, number, past.deferrals, retry, (self.random)());
        let outcome = match verdict {
            Some(Verdict::Retry) if !counts => Outcome::Defer(Duration::ZERO),
            Some(Verdict::RetryAfter(after)) if !counts => Outcome::Defer(after),
            Some(
                Verdict::Retry
                | Verdict::RetryAfter(_)
                | Verdict::Reject
                | Verdict::Unavailable
                | Verdict::OutsideInbox
                | Verdict::Undecodable
                | Verdict::Undecided,
            )
            | None => outcome,
        };
        Decided {
            outcome,
            error,
            fault,
        }
    }

    /// Ends the permit of an attempt that does not take place.
    pub(crate) fn pass<A>(&self, attempt: &Attempt<'_, A>) {
        let subject = &attempt.delivery.subject;
        self.throttle
            .end(attempt.permit, subject, Attempted::Void, None);
    }

    /// Whether this instance has a handler for the name of the event.
    pub(crate) fn takes(&self, delivery: &Delivery) -> bool {
        let replay = delivery.replay.as_deref();
        self.subscriber.takes(&delivery.subject, replay)
    }

    /// How long an attempt may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.subscriber.timeout
    }

    /// The handler of an event, if it has one.
    fn route(&self, delivery: &Delivery) -> Option<&Route<S>> {
        let replay = delivery.replay.as_deref();
        self.subscriber.route(delivery.event()?, replay)
    }

    fn handler_of(&self, delivery: &Delivery) -> Option<&'static str> {
        self.route(delivery).map(|route| route.handler.name())
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

#[cfg(test)]
mod tests;
