//! Several deliveries handled by one call. Never forms the batch.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use futures::{FutureExt, future::join_all};

use super::{Acknowledger, Attempt, Decided, Disposition, Executor};
use crate::{
    handler::{batch::Batch, context::Cancelled, panicked},
    policy::{failure::Failure, outcome::Handled},
};

impl<S: Send + Sync + 'static> Executor<S> {
    /// One attempt of events with the same batch handler: one call, then decide, acknowledge and record each event.
    pub(crate) async fn run_batch<A: Acknowledger>(
        &self,
        attempts: Vec<Attempt<'_, A>>,
    ) -> Vec<Disposition> {
        let began = Instant::now();
        let called = AssertUnwindSafe(self.call_batch(&attempts)).catch_unwind();
        let results = match called.await {
            Ok(Some(results)) if !self.fails_its_replay(&attempts, &results) => results,
            Ok(_) => {
                let back = attempts.iter().map(|attempt| {
                    self.pass(attempt);
                    self.hand_back(attempt)
                });
                return join_all(back).await;
            }
            Err(panic) => {
                let failure = panicked(&*panic);
                attempts.iter().map(|_| Err(failure.copy())).collect()
            }
        };
        let elapsed = began.elapsed();
        let each = attempts.into_iter().zip(results);
        let each = each.map(|(attempt, result)| {
            let decided = self.decide_caught(&attempt, result);
            self.conclude(attempt, decided, elapsed)
        });
        join_all(each).await
    }

    /// Whether the replay cannot continue. All events of a batch are part of the same replay, or of none.
    fn fails_its_replay<A>(
        &self,
        attempts: &[Attempt<'_, A>],
        results: &[Result<Handled, Failure>],
    ) -> bool {
        let mut each = attempts.iter().zip(results);
        each.any(|(attempt, result)| self.fails_replay(attempt.delivery, result))
    }

    /// The text of an error is application code too, and may panic.
    fn decide_caught<A>(
        &self,
        attempt: &Attempt<'_, A>,
        result: Result<Handled, Failure>,
    ) -> Decided {
        let decide = |result| self.decide(attempt, result);
        let deciding = AssertUnwindSafe(|| decide(result));
        std::panic::catch_unwind(deciding).unwrap_or_else(|panic| decide(Err(panicked(&*panic))))
    }

    /// The handler's results; `None` when the worker halts first.
    async fn call_batch<A>(
        &self,
        attempts: &[Attempt<'_, A>],
    ) -> Option<Vec<Result<Handled, Failure>>> {
        let halt = attempts.first()?.halt;
        let cancelled = halt.child_token();
        let facts = attempts.iter().filter_map(|attempt| {
            let envelope = attempt.delivery.event()?;
            let facts = self.facts(attempt.delivery, envelope, Cancelled::by(&cancelled));
            Some(Arc::new(facts))
        });
        let deliveries: Vec<_> = facts.collect();
        let batch = Batch {
            state: Arc::clone(&self.state),
            deliveries,
            cancelled,
            has_scopes: true,
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
