//! The parts of execution that are specific to replays. Never decides what is replayed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio_util::sync::CancellationToken;

use super::{Acknowledger, Arrival, Executor, Step};
use crate::{
    handler::panicked,
    policy::{
        breaker::Permit,
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
    pub(super) fn uncalled(&self, arrival: &Arrival) -> Option<Uncalled> {
        let replay = arrival.replay.as_ref()?;
        if replay.is_void() {
            return Some(Uncalled::Void);
        }
        let envelope = arrival.envelope.as_ref().ok()?;
        let route = self.subscriber.route(envelope, Some(replay))?;
        route.skips_replays.then_some(Uncalled::Skipped)
    }

    /// Answers an event for which no handler is called.
    pub(super) async fn without_a_call(
        &self,
        arrival: &Arrival,
        uncalled: Uncalled,
        acknowledger: &impl Acknowledger,
        halt: &CancellationToken,
        permit: Permit,
    ) -> Step {
        self.pass(arrival, permit);
        if uncalled == Uncalled::Void {
            return match acknowledger.ack().await {
                Ok(()) => Step::Over,
                Err(_) => Step::Left,
            };
        }
        acknowledger.decided(&Outcome::Ack, None);
        let answering = self.answered(arrival, &Outcome::Ack, acknowledger, halt);
        let (step, _) = answering.await;
        if let (Step::Over, Some(replay)) = (step, &arrival.replay) {
            replay.course.add(Count::Skipped, 1);
        }
        step
    }

    /// Whether the replay cannot continue because the event is older than the inbox remembers. Not a fault of the
    /// event.
    pub(super) fn fails_replay(
        &self,
        arrival: &Arrival,
        result: &Result<Handled, Failure>,
    ) -> bool {
        let (Some(replay), Err(failure)) = (&arrival.replay, result) else {
            return false;
        };
        let is_old = !replay.is_retry && failure.verdict == Verdict::OutsideInbox;
        if is_old {
            let why = "the replay is too old: the inbox remembers handled events for 13 days; start another replay";
            replay.course.fail(why.to_owned());
        }
        is_old
    }

    /// Routes and decodes an event without calling a handler.
    pub(crate) fn rehearse(&self, arrival: &Arrival) -> Rehearsed {
        let envelope = match &arrival.envelope {
            Ok(envelope) => envelope,
            Err(error) => return Rehearsed::Undecodable(told(error)),
        };
        let Some(route) = self.subscriber.route(envelope, arrival.replay.as_deref()) else {
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
