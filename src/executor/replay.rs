//! The parts of execution that are specific to replays. Never decides what is replayed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Acknowledger, Attempt, Delivery, Disposition, Executor};
use crate::{
    handler::panicked,
    observer::DeliveryEnd,
    policy::{
        failure::{Failure, Verdict, told, undecodable},
        outcome::{Handled, Outcome},
    },
    replay::tag::Count,
};

/// What would happen to an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rehearsed {
    /// A handler would be called.
    Call,
    /// Its handler skips replays.
    Skip,
    /// It would become a dead letter.
    Undecodable(String),
}

/// Why no handler is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Uncalled {
    /// Its replay has ended.
    Void,
    /// Its handler skips replays.
    Skipped,
}

impl<S: Send + Sync + 'static> Executor<S> {
    /// Why no handler is called for an event of a replay; `None` when one is called.
    pub(super) fn uncalled(&self, delivery: &Delivery) -> Option<Uncalled> {
        let replay = delivery.replay.as_ref()?;
        if replay.is_void() {
            return Some(Uncalled::Void);
        }
        let envelope = delivery.envelope.as_ref().ok()?;
        let route = self.subscriber.route(envelope, Some(replay))?;
        route.skips_replays.then_some(Uncalled::Skipped)
    }

    /// Answers an event for which no handler is called.
    pub(super) async fn without_a_call<A: Acknowledger>(
        &self,
        attempt: Attempt<'_, A>,
        uncalled: Uncalled,
    ) -> Disposition {
        self.pass(&attempt);
        if uncalled == Uncalled::Void {
            self.record(attempt.delivery, DeliveryEnd::Dropped);
            return match attempt.ack.ack().await {
                Ok(()) => Disposition::Settled,
                Err(_) => Disposition::Abandoned,
            };
        }
        self.record(attempt.delivery, DeliveryEnd::Skipped);
        let (disposition, _) = self.confirm(&attempt, &Outcome::Ack).await;
        if let (Disposition::Settled, Some(replay)) = (disposition, &attempt.delivery.replay) {
            replay.counters.add(Count::Skipped, 1);
        }
        disposition
    }

    /// Whether the replay cannot continue because the event is older than the inbox remembers. Not a fault of the
    /// event.
    pub(super) fn fails_replay(
        &self,
        delivery: &Delivery,
        result: &Result<Handled, Failure>,
    ) -> bool {
        let (Some(replay), Err(failure)) = (&delivery.replay, result) else {
            return false;
        };
        let is_old = !replay.is_retry && failure.verdict == Verdict::OutsideInbox;
        if is_old {
            let why = "the replay is too old: the inbox remembers handled events for 13 days; start another replay";
            replay.counters.fail(why.to_owned());
        }
        is_old
    }

    /// Routes and decodes an event without calling a handler.
    pub(crate) fn rehearse(&self, delivery: &Delivery) -> Rehearsed {
        let envelope = match &delivery.envelope {
            Ok(envelope) => envelope,
            Err(error) => return Rehearsed::Undecodable(told(error)),
        };
        let Some(route) = self.subscriber.route(envelope, delivery.replay.as_deref()) else {
            return Rehearsed::Undecodable(told(&self.no_handler(envelope)));
        };
        if route.skips_replays {
            return Rehearsed::Skip;
        }
        // Decoding is application code, and may panic.
        let decoding = catch_unwind(AssertUnwindSafe(|| route.handler.decodes(envelope)));
        match decoding {
            Ok(Ok(())) => Rehearsed::Call,
            Ok(Err(error)) => Rehearsed::Undecodable(undecodable(envelope, &error)),
            Err(panic) => Rehearsed::Undecodable(told(&panicked(&*panic))),
        }
    }
}
