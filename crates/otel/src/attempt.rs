//! The `process` span of one call of a handler. Never decides the outcome.

use opentelemetry::{
    Context, KeyValue,
    trace::{Status, TraceContextExt},
};
use tidings::observer::{AttemptEnd, AttemptScope, TraceContext};

use crate::{attributes, context, metrics::Measured};

/// What the outcome of an event is that the worker has handed back.
const HANDED_BACK: &str = "handed-back";

/// A `process` span that is current while the handler runs.
pub(crate) struct Process {
    /// With the span.
    context: Context,
    /// `None` without metrics, and when the end is recorded.
    measured: Option<Measured>,
    is_over: bool,
}

impl Process {
    pub(crate) fn new(context: Context, measured: Option<Measured>) -> Self {
        Self {
            context,
            measured,
            is_over: false,
        }
    }

    fn end(&mut self) {
        self.is_over = true;
        self.context.span().end();
    }
}

impl AttemptScope for Process {
    fn step(&mut self, step: &mut dyn FnMut()) {
        let _current = self.context.clone().attach();
        step();
    }

    fn context(&self) -> Option<TraceContext> {
        context::headers(self.context.span().span_context())
    }

    fn ended(mut self: Box<Self>, end: &AttemptEnd) {
        let span = self.context.span();
        if let Some(outcome) = end.outcome {
            span.set_attribute(KeyValue::new(attributes::OUTCOME, outcome));
        }
        if let Some(error) = end.error {
            span.set_attribute(KeyValue::new(attributes::ERROR_TYPE, error));
            span.set_attribute(KeyValue::new(
                attributes::FAILED,
                attributes::count(end.failed),
            ));
            span.set_status(Status::error(error));
        }
        self.end();
        if let Some(measured) = self.measured.take() {
            measured.end(end.error);
        }
    }
}

/// The worker stops, and another instance receives the event.
impl Drop for Process {
    fn drop(&mut self) {
        if !self.is_over {
            let outcome = KeyValue::new(attributes::OUTCOME, HANDED_BACK);
            self.context.span().set_attribute(outcome);
            self.end();
        }
    }
}
