//! The spans of this process, and how to find those of one event. All tests of a process share the observer.

use std::sync::OnceLock;

use opentelemetry::{
    Context, KeyValue, SpanId, TraceId, Value,
    trace::{SpanContext, SpanKind, TraceContextExt, Tracer, TracerProvider},
};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracer, SdkTracerProvider, SpanData};
use tidings::{Envelope, EventId};
use tidings_test_support::{User, eventually};

/// The spans that are over.
pub struct Spans {
    provider: SdkTracerProvider,
    exporter: InMemorySpanExporter,
}

/// Installs the observer, once.
pub fn spans() -> &'static Spans {
    static SPANS: OnceLock<Spans> = OnceLock::new();
    SPANS.get_or_init(|| {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone());
        let provider = provider.build();
        tidings_otel::observer(&provider).install().unwrap();
        Spans { provider, exporter }
    })
}

impl Spans {
    pub fn tracer(&self) -> SdkTracer {
        self.provider.tracer("the application")
    }

    /// A context with a span of the application, such as that of an HTTP request.
    pub fn request(&self) -> Context {
        let span = self.tracer().start("POST /users");
        Context::new().with_span(span)
    }

    fn all(&self) -> Vec<SpanData> {
        self.exporter.get_finished_spans().unwrap()
    }

    /// The spans of this operation about an event, in the order of their ends.
    pub fn of(&self, operation: &str, event: EventId) -> Vec<SpanData> {
        let all = self.all().into_iter();
        let name = format!("{operation} ");
        let all = all.filter(|span| span.name.starts_with(&name));
        let id = event.to_string();
        all.filter(|span| attribute(span, "messaging.message.id") == Some(id.clone()))
            .collect()
    }

    /// The span of a batch that has a link to this event.
    pub fn of_batch(&self, event: EventId) -> Option<SpanData> {
        let id = KeyValue::new("messaging.message.id", event.to_string());
        let has_link =
            |span: &SpanData| span.links.iter().any(|link| link.attributes.contains(&id));
        self.all().into_iter().find(has_link)
    }

    /// The spans of this name in a trace.
    pub fn named(&self, name: &str, trace: TraceId) -> Vec<SpanData> {
        let all = self.all().into_iter();
        all.filter(|span| span.name == name && span.span_context.trace_id() == trace)
            .collect()
    }

    /// Waits for spans of this operation about an event.
    pub async fn reach(&self, operation: &str, event: EventId, count: usize) -> Vec<SpanData> {
        eventually(&format!("{count} spans {operation}"), || async {
            self.of(operation, event).len() >= count
        })
        .await;
        self.of(operation, event)
    }
}

/// The text of an attribute.
pub fn attribute(span: &SpanData, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|one| one.key.as_str() == key);
    found.map(|one| match &one.value {
        Value::String(text) => text.to_string(),
        other => other.to_string(),
    })
}

/// An event with the context of a span.
pub fn created_by(span: &SpanContext, id: &str) -> Envelope {
    let flags = if span.is_sampled() { "01" } else { "00" };
    let traceparent = format!("00-{}-{}-{flags}", span.trace_id(), span.span_id());
    Envelope::of(&User::new(id))
        .unwrap()
        .traced(traceparent)
        .unwrap()
}

/// Whether a span is a child of another one, and in its trace.
pub fn is_child(span: &SpanData, parent: &SpanContext) -> bool {
    span.parent_span_id == parent.span_id() && span.span_context.trace_id() == parent.trace_id()
}

/// Whether a span begins a trace, and has one link, to this span.
pub fn is_linked_root(span: &SpanData, linked: &SpanContext) -> bool {
    span.parent_span_id == SpanId::INVALID
        && span.span_context.trace_id() != linked.trace_id()
        && has_link(span, linked)
        && span.links.len() == 1
}

pub fn has_link(span: &SpanData, linked: &SpanContext) -> bool {
    span.links
        .iter()
        .any(|link| link.span_context.span_id() == linked.span_id())
}

pub fn is_kind(span: &SpanData, kind: &SpanKind) -> bool {
    span.span_kind == *kind
}
