//! The W3C trace context of events, as OpenTelemetry has it. Never the current context of the process.

use opentelemetry::{
    Context, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, TraceContextExt, TraceState},
};
use tidings::{
    Envelope,
    observer::{TraceContext, Traceparent},
};

/// The span that created an event.
pub(crate) fn creation_context(event: &Envelope) -> Option<SpanContext> {
    let lineage = event.lineage();
    let parent = Traceparent::parse(lineage.traceparent.as_deref()?)?;
    let flags = match parent.is_sampled {
        true => TraceFlags::SAMPLED,
        false => TraceFlags::NOT_SAMPLED,
    };
    // A state that cannot be read is dropped; the rest of the context holds without it.
    let state = lineage.tracestate.as_deref();
    let state = state.and_then(|state| state.parse().ok());
    let context = SpanContext::new(
        TraceId::from_hex(parent.trace_id).ok()?,
        SpanId::from_hex(parent.span_id).ok()?,
        flags,
        true,
        state.unwrap_or(TraceState::NONE),
    );
    context.is_valid().then_some(context)
}

/// The headers of a span, if it is a valid one.
pub(crate) fn headers(span: &SpanContext) -> Option<TraceContext> {
    if !span.is_valid() {
        return None;
    }
    let flags = span.trace_flags() & TraceFlags::SAMPLED;
    let traceparent = format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id());
    Some(TraceContext::new(
        traceparent,
        Some(span.trace_state().header()),
    ))
}

/// The headers of the current span, if there is one.
pub(crate) fn current() -> Option<TraceContext> {
    Context::map_current(|context| headers(context.span().span_context()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn event(traceparent: &str) -> Envelope {
        let event = Envelope::raw("user.created", 1, None, "{}").unwrap();
        event.traced(traceparent).unwrap()
    }

    #[test]
    fn a_context_survives_the_way_through_an_event() {
        for traceparent in [PARENT, &PARENT.replace("-01", "-00")] {
            let span = creation_context(&event(traceparent)).unwrap();
            assert!(span.is_remote());
            assert_eq!(span.is_sampled(), traceparent.ends_with("01"));
            assert_eq!(headers(&span).unwrap().traceparent, traceparent);
        }
    }

    #[test]
    fn what_is_no_traceparent_is_no_context() {
        assert_eq!(creation_context(&event("mine")), None);
        let untraced = Envelope::raw("user.created", 1, None, "{}").unwrap();
        assert_eq!(creation_context(&untraced), None);
        assert_eq!(headers(&SpanContext::empty_context()), None);
        assert_eq!(current(), None);
    }
}
