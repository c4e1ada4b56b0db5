//! What surrounds a call of a handler: a span, so that each line that is logged inside names the event and its trace;
//! and the scope of the trace observer. Never calls a handler itself.

use std::{pin::pin, sync::Arc};

use tracing::{Span, info_span};

use super::{batch::Attempted, context::Facts};
use crate::{
    observer::{
        Attempt, AttemptEnd, AttemptScope, Delivered, TraceContext,
        traces::{self, TraceObserver},
    },
    policy::{failure::Failure, outcome::Handled},
};

/// The target of the spans, so that a filter can name them.
const TARGET: &str = "tidings::handler";

/// Surrounds one call.
pub(crate) struct Scope {
    span: Span,
    /// `None` without an observer, and when the end is told.
    observed: Option<Box<dyn AttemptScope>>,
}

impl Scope {
    /// The scope of a call with one event.
    pub(crate) fn of_one(facts: &Arc<Facts>) -> Self {
        Self::begin(std::slice::from_ref(facts), false, traces::installed())
    }

    /// The scope of a call of a batch handler.
    pub(crate) fn of_batch(deliveries: &[Arc<Facts>]) -> Self {
        Self::begin(deliveries, true, traces::installed())
    }

    fn begin(
        deliveries: &[Arc<Facts>],
        is_batch: bool,
        observer: Option<&dyn TraceObserver>,
    ) -> Self {
        let observed = observer.and_then(|observer| observe(observer, deliveries, is_batch));
        let mut scope = Self {
            span: Span::none(),
            observed,
        };
        let context = scope.observed.as_ref().and_then(|scope| scope.context());
        // Inside the scope, so that a layer that makes traces of spans finds the parent.
        scope.span = scope.inside(|| span(deliveries, context.as_ref()));
        scope
    }

    /// Runs a part of the call that does not wait.
    #[allow(clippy::expect_used)] // it has run: here, if the observer has not run it
    pub(crate) fn inside<T>(&mut self, part: impl FnOnce() -> T) -> T {
        let span = &self.span;
        let Some(observed) = &mut self.observed else {
            return span.in_scope(part);
        };
        let (mut part, mut done) = (Some(part), None);
        let mut step = || {
            if let Some(part) = part.take() {
                done = Some(span.in_scope(part));
            }
        };
        observed.step(&mut step);
        step();
        done.expect("the part has run")
    }

    /// Runs the part of the call that waits.
    pub(crate) async fn around<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| self.inside(|| work.as_mut().poll(cx))).await
    }

    /// Tells the observer the outcome of one event, and the kind of failure behind it.
    pub(crate) fn end(mut self, outcome: &'static str, error: Option<&'static str>) {
        self.tell(AttemptEnd::new(
            Some(outcome),
            usize::from(error.is_some()),
            error,
        ));
    }

    /// Tells the observer how a call with many events has ended.
    pub(crate) fn end_batch(mut self, attempted: &Attempted) {
        if self.observed.is_none() {
            return;
        }
        let (results, together) = match attempted {
            Attempted::Each(results) => (results, None),
            Attempted::Together(results, failure) => (results, Some(failure)),
        };
        let failure = |result: &'_ Result<Handled, Failure>| match (result, together) {
            (Err(failure), _) | (Ok(Handled::Done), Some(failure)) => Some(failure.kind()),
            (Ok(_), _) => None,
        };
        let mut failures = results.iter().filter_map(failure);
        let first = failures.next();
        let failed = usize::from(first.is_some()) + failures.count();
        let outcome = if failed == 0 { Some("ack") } else { None };
        self.tell(AttemptEnd::new(outcome, failed, first));
    }

    fn tell(&mut self, end: AttemptEnd) {
        if let Some(observed) = self.observed.take() {
            observed.ended(&end);
        }
    }
}

/// A panic is a failure; what is dropped otherwise is handed back.
impl Drop for Scope {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell(AttemptEnd::new(None, 1, Some("panic")));
        }
    }
}

fn observe(
    observer: &dyn TraceObserver,
    deliveries: &[Arc<Facts>],
    is_batch: bool,
) -> Option<Box<dyn AttemptScope>> {
    let subscriber = &*deliveries.first()?.subscriber;
    let deliveries: Vec<Delivered<'_>> = deliveries.iter().map(delivered).collect();
    observer.attempt(&Attempt {
        subscriber,
        deliveries: &deliveries,
        is_batch,
    })
}

fn delivered(facts: &Arc<Facts>) -> Delivered<'_> {
    Delivered {
        event: &facts.envelope,
        stream: &facts.stream,
        sequence: facts.sequence,
        stored_at: facts.stored_at,
        attempt: facts.attempt,
        first_failed_at: facts.first_failed_at,
        redrives: facts.redrives,
        replay: facts.replay_id(),
    }
}

/// The span of a call. Events of a batch belong to different traces, so a batch has one only if the observer makes one.
fn span(deliveries: &[Arc<Facts>], context: Option<&TraceContext>) -> Span {
    let trace_id = context.and_then(TraceContext::trace_id);
    let span_id = context.and_then(TraceContext::span_id);
    match deliveries {
        [] => Span::none(),
        [one] => info_span!(
            target: TARGET,
            "handler",
            trace_id = trace_id.or_else(|| one.envelope.lineage().trace_id()),
            span_id,
            event.id = %one.envelope.id(),
            event.name = one.envelope.name().as_str(),
            subscriber = &*one.subscriber,
            attempt = one.attempt,
        ),
        [first, ..] => info_span!(
            target: TARGET,
            "handler",
            trace_id,
            span_id,
            events = deliveries.len(),
            event.name = first.envelope.name().as_str(),
            subscriber = &*first.subscriber,
        ),
    }
}

#[cfg(test)]
mod tests;
