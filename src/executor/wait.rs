//! Where an event waits for its next attempt: in flight, or stored for redelivery to any instance.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    time::Duration,
};

use super::{Acknowledger, Attempt, Disposition, Executor, throttle::Pulls};
use crate::{
    observer::DeliveryEnd,
    policy::{
        outcome::{Cause, DeadLetter, Outcome},
        retry::Retry,
    },
};

/// Delays shorter than the server's schedules can make are waited for in flight.
const IN_PLACE: Duration = Duration::from_millis(250);
/// A deferred event stays in flight for no longer than this.
const LONGEST_IN_FLIGHT: Duration = Duration::from_secs(30);
/// How long the event of a failed probe is sent away, so that another event becomes the next probe.
const AFTER_PROBE: Duration = Duration::from_secs(1);

/// How often in a row an event is deferred in flight, before it makes room for other events.
const IN_FLIGHT: u32 = 2;
/// The delay when it is then stored for redelivery. Not short: while the dependency is unavailable, each redelivery
/// costs two messages.
const AWAY: Retry =
    Retry::exponential(Duration::from_secs(2), Duration::from_secs(30)).attempts(u32::MAX);

/// The delay before an event that this instance does not handle is redelivered. With jitter: instances pull in turn,
/// and a fixed delay would redeliver it to the same instance. Not short: the server delivers again what was handed back
/// before it delivers anything new, so thousands of such events would keep the others from coming.
const NOT_OURS: Retry =
    Retry::exponential(Duration::from_millis(500), Duration::from_secs(30)).attempts(u32::MAX);
/// How often it is handed back before it is dead-lettered: about an hour, with the delays above.
const LEFT_AT_MOST: u32 = 125;
/// An ordered subscriber waits for all of that time in flight: this instance will not learn the name later either.
const LEFT_FOR: Duration = Duration::from_secs(3_600);

impl<S: Send + Sync + 'static> Executor<S> {
    /// How long the event stays in flight; `None` when the outcome is to be answered.
    pub(super) fn stays_for<A: Acknowledger>(
        &self,
        attempt: &Attempt<'_, A>,
        outcome: &mut Outcome,
    ) -> Option<Duration> {
        let past = &attempt.delivery.past;
        let must_stay = || self.subscriber.ordered || !attempt.ack.can_come_again(past);
        match outcome {
            // If only the events in flight were probes, events that always fail would keep the circuit open.
            Outcome::Defer(after) if attempt.permit.is_probe() && !must_stay() => {
                *after = (*after).max(AFTER_PROBE);
                None
            }
            // Another handler may not need this dependency: its events wait behind this one.
            Outcome::Defer(after)
                if past.deferrals > IN_FLIGHT
                    && self.throttle.pulls() == Pulls::All
                    && !must_stay() =>
            {
                let away = AWAY.delay(past.deferrals - IN_FLIGHT, (self.random)());
                *after = (*after).max(away.unwrap_or_default());
                None
            }
            // The dependency of the handlers is unavailable: pulling more events would not help.
            Outcome::Defer(after) if *after <= LONGEST_IN_FLIGHT || must_stay() => Some(*after),
            Outcome::Retry(after) if *after <= IN_PLACE || must_stay() => Some(*after),
            Outcome::Defer(_)
            | Outcome::Retry(_)
            | Outcome::Ack
            | Outcome::Duplicate
            | Outcome::Reject(_) => None,
        }
    }

    /// Hands an event back for another instance: a newer version may have widened the consumer. An ordered subscriber
    /// has no other active instance at the moment, and must not let the key's next event pass.
    pub(crate) async fn leave<A: Acknowledger>(&self, attempt: Attempt<'_, A>) -> Disposition {
        let delivery = &mut *attempt.delivery;
        let unsaid = self.tally.unhandled(&delivery.subject);
        self.record(delivery, DeliveryEnd::Unhandled { unsaid });
        delivery.past.note_deferral();
        let times = delivery.past.deferrals.max(delivery.delivered);
        if times > LEFT_AT_MOST {
            let (name, subject) = (&self.name, &delivery.subject);
            let error = format!("no instance of {name} handles {subject}");
            let letter = DeadLetter::new(Cause::Unknown, &error, 0);
            let outcome = Outcome::Reject(letter);
            return self.end(&attempt, &outcome, Duration::ZERO).await;
        }
        let after = NOT_OURS.delay(times, (self.random)()).unwrap_or_default();
        if self.subscriber.ordered && delivery.replay.is_none() {
            delivery.past.deferrals = LEFT_AT_MOST;
            return Disposition::RetryLocally(LEFT_FOR);
        }
        // Its replay may be cancelled meanwhile.
        if self.subscriber.ordered {
            return Disposition::RetryLocally(after);
        }
        self.hand_back_after(&attempt, after).await
    }
}

/// From 0 to 1, for jitter only: the standard library seeds every `RandomState` differently.
pub(super) fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 11;
    #[allow(clippy::cast_precision_loss)] // 53 bits fit
    let random = bits as f64 / (1_u64 << 53) as f64;
    random
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use chrono::Utc;
    use tidings_contract::{Envelope, Event};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        executor::{AckError, Delivery, Past},
        handler::{context::Context, subscriber::EventSubscriber},
        observer::Observers,
        policy::{breaker::Permit, failure::Failure},
        position::Position,
    };

    /// Records the answers.
    #[derive(Default)]
    struct Answers(Mutex<Vec<String>>);

    impl Answers {
        fn note(&self, answer: impl Into<String>) -> Result<(), AckError> {
            self.0.lock().unwrap().push(answer.into());
            Ok(())
        }
    }

    impl Acknowledger for Answers {
        async fn ack(&self) -> Result<(), AckError> {
            self.note("ack")
        }
        async fn retry(&self, _: Duration, _: &Past) -> Result<(), AckError> {
            self.note("retry")
        }
        async fn hand_back(&self, _: Duration) -> Result<(), AckError> {
            self.note("hand back")
        }
        async fn dead_letter(&self, letter: &DeadLetter) -> Result<u64, AckError> {
            let noted = self.note(format!("{}: {}", letter.cause.as_str(), letter.error));
            noted.map(|()| 0)
        }
    }

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Known;

    impl Event for Known {
        const NAME: &'static str = "user.created";
        const VERSION: u32 = 1;

        fn key(&self) -> Option<String> {
            None
        }
    }

    async fn handle(_: Known, _: Context<()>) -> Result<(), Failure> {
        Ok(())
    }

    fn delivery(times: u32) -> Delivery {
        let envelope = Envelope::raw("user.renamed", 1, None, "{}").unwrap();
        Delivery {
            envelope: Ok(envelope.into()),
            subject: "user.renamed".into(),
            stream: "EVENTS".into(),
            sequence: 1,
            stored_at: Utc::now(),
            position: Position::from((1, 0)),
            consumer_sequence: u64::from(times),
            delivered: times,
            is_suspect: false,
            past: Past::default(),
            replay: None,
        }
    }

    async fn run(executor: &Executor<()>, delivery: &mut Delivery, ack: &Answers) -> Disposition {
        let attempt = Attempt {
            delivery,
            ack,
            halt: &CancellationToken::new(),
            permit: Permit::default(),
        };
        executor.run(attempt).await
    }

    async fn left(times: u32) -> Vec<String> {
        let subscriber = EventSubscriber::durable("w").on(handle);
        let executor = Executor::new(Arc::new(subscriber), Arc::new(()), &Observers::default());
        let (mut delivery, answers) = (delivery(times), Answers::default());
        run(&executor, &mut delivery, &answers).await;
        answers.0.into_inner().unwrap()
    }

    #[tokio::test]
    async fn in_order_an_unknown_name_waits_an_hour_then_dead_letters() {
        let subscriber = EventSubscriber::durable("w").on(handle).ordered_by_key();
        let executor = Executor::new(Arc::new(subscriber), Arc::new(()), &Observers::default());
        let (mut delivery, answers) = (delivery(1), Answers::default());
        let waits = run(&executor, &mut delivery, &answers).await;
        assert_eq!(waits, Disposition::RetryLocally(LEFT_FOR));
        assert!(executor.tally().why_unhandled().is_some());
        let ends = run(&executor, &mut delivery, &answers).await;
        assert_eq!(ends, Disposition::Settled);
        let dead_lettered = ["unknown: no instance of w handles user.renamed"];
        assert_eq!(answers.0.into_inner().unwrap(), dead_lettered);
    }

    #[tokio::test]
    async fn an_unhandled_name_is_dead_lettered_after_an_hour() {
        assert_eq!(left(1).await, ["hand back"]);
        assert_eq!(left(LEFT_AT_MOST).await, ["hand back"]);
        let dead_lettered = ["unknown: no instance of w handles user.renamed"];
        assert_eq!(left(LEFT_AT_MOST + 1).await, dead_lettered);
    }
}
