//! The spans of what a server is asked: to store an event, or to take the outcome of one. Never decides when.

use opentelemetry::{
    KeyValue,
    trace::{Span, Status},
};
use tidings::observer::{Sending, Settling, TraceContext};

use crate::{attributes, context::headers, metrics::Measured};

/// What the error of an answer is that no server has confirmed.
const UNCONFIRMED: &str = "unconfirmed";

/// The span of a publisher, until the stream has answered.
pub(crate) struct Sent<S> {
    pub(crate) span: S,
    pub(crate) measured: Option<Measured>,
}

impl<S: Span + Send + 'static> Sending for Sent<S> {
    fn context(&self) -> Option<TraceContext> {
        headers(self.span.span_context())
    }

    fn ended(mut self: Box<Self>, error: Option<&'static str>) {
        if let Some(error) = error {
            let attribute = KeyValue::new(attributes::ERROR_TYPE, error);
            self.span.set_attribute(attribute);
            self.span.set_status(Status::error(error));
        }
        self.span.end();
        if let Some(measured) = self.measured {
            measured.end(error);
        }
    }
}

/// The span of an answer to the server.
pub(crate) struct Settled<S>(pub(crate) S);

impl<S: Span + Send + 'static> Settling for Settled<S> {
    fn ended(mut self: Box<Self>, is_confirmed: bool) {
        if !is_confirmed {
            let attribute = KeyValue::new(attributes::ERROR_TYPE, UNCONFIRMED);
            self.0.set_attribute(attribute);
            self.0.set_status(Status::error(UNCONFIRMED));
        }
        self.0.end();
    }
}
