//! Several deliveries handled by one call. Never forms the batch.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use futures::{FutureExt, future::join_all};
use tokio_util::sync::CancellationToken;

use super::{Acknowledger, Arrival, Executor, Step};
use crate::{
    handler::{batch::Batch, context::Cancelled, panicked},
    policy::{
        breaker::{Attempted, Permit},
        failure::Failure,
        outcome::{Handled, Outcome},
    },
};

/// A delivery and its acknowledger.
pub(crate) struct InFlightDelivery<'a, A> {
    pub(crate) arrival: &'a mut Arrival,
    pub(crate) acknowledger: A,
    pub(crate) permit: Permit,
}

impl<S: Send + Sync + 'static> Executor<S> {
    /// One attempt of events with the same batch handler: one call, then decide, acknowledge and record each event.
    pub(crate) async fn run_batch<A: Acknowledger>(
        &self,
        mut in_flight: Vec<InFlightDelivery<'_, A>>,
        halt: &CancellationToken,
    ) -> Vec<Step> {
        let began = Instant::now();
        let called = AssertUnwindSafe(self.call_batch(&in_flight, halt)).catch_unwind();
        let results = match called.await {
            Ok(Some(results)) if !self.fails_its_replay(&in_flight, &results) => results,
            Ok(_) => {
                let back = in_flight.iter().map(|held| {
                    let subject = &held.arrival.subject;
                    self.flow.end(held.permit, subject, Attempted::Void);
                    self.hand_back(held.arrival, &held.acknowledger, halt)
                });
                return join_all(back).await;
            }
            Err(panic) => {
                let failure = panicked(&*panic);
                in_flight.iter().map(|_| Err(failure.copy())).collect()
            }
        };
        let elapsed = began.elapsed();
        let each = in_flight.iter_mut().zip(results);
        let each = each.map(|(held, result)| {
            let decided = self.decide_caught(held, result);
            let (acknowledger, permit) = (&held.acknowledger, held.permit);
            self.conclude(held.arrival, decided, elapsed, acknowledger, halt, permit)
        });
        join_all(each).await
    }

    /// Whether the replay cannot continue. All events of a batch are part of the same replay, or of none.
    fn fails_its_replay<A>(
        &self,
        in_flight: &[InFlightDelivery<'_, A>],
        results: &[Result<Handled, Failure>],
    ) -> bool {
        let mut each = in_flight.iter().zip(results);
        each.any(|(held, result)| self.fails_replay(held.arrival, result))
    }

    /// The text of an error is application code too, and may panic.
    fn decide_caught<A>(
        &self,
        held: &InFlightDelivery<'_, A>,
        result: Result<Handled, Failure>,
    ) -> (Outcome, Option<String>) {
        let attempt = held.arrival.past.failures.saturating_add(1);
        let decide = |result| self.decide(result, held.arrival, attempt, held.permit);
        let deciding = AssertUnwindSafe(|| decide(result));
        std::panic::catch_unwind(deciding).unwrap_or_else(|panic| decide(Err(panicked(&*panic))))
    }

    /// The handler's results; `None` when the worker halts first.
    async fn call_batch<A>(
        &self,
        in_flight: &[InFlightDelivery<'_, A>],
        halt: &CancellationToken,
    ) -> Option<Vec<Result<Handled, Failure>>> {
        let cancelled = halt.child_token();
        let facts = in_flight.iter().filter_map(|held| {
            let envelope = held.arrival.envelope.as_ref().ok()?;
            let attempt = held.arrival.past.failures.saturating_add(1);
            Some(self.facts(held.arrival, envelope, attempt, Cancelled::by(&cancelled)))
        });
        let batch = Batch {
            state: Arc::clone(&self.state),
            deliveries: facts.map(Arc::new).collect(),
            cancelled,
        };
        let first = batch.deliveries.first()?;
        let replay = first.replay.as_deref();
        let handler = self.subscriber.route(&first.envelope, replay)?;
        let handler = handler.handler.batch()?;
        let events = batch.deliveries.len();
        let running = self.in_flight.begin(&self.name, &first.envelope, events);
        let calling = running.inside(|| handler.call_batch(&batch));
        let calling = running.watched(calling);
        halt.run_until_cancelled(calling).await
    }
}
