//! The `settle` spans, on demand: in a process of their own, because a process has one observer.

#![allow(clippy::unwrap_used)] // helpers of tests are test code

use opentelemetry::{
    KeyValue,
    trace::{SpanKind, Status},
};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tidings::{Context, Envelope, EventSubscriber, Failure, testing::TestWorker};
use tidings_test_support::User;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

async fn refuse_bob(user: User, _: Context<()>) -> Result<(), Failure> {
    match &*user.id {
        "bob" => Err(Failure::reject("never")),
        _ => Ok(()),
    }
}

#[tokio::test]
async fn each_outcome_that_the_server_confirms_has_a_span() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone());
    let observer = tidings_otel::observer(&provider.build()).settle_spans();
    observer.install().unwrap();
    let subscriber = EventSubscriber::durable("welcome").on(refuse_bob);
    let mut worker = TestWorker::new(subscriber, ());
    for id in ["ada", "bob"] {
        let event = Envelope::of(&User::new(id)).unwrap();
        worker.deliver(event.traced(PARENT).unwrap()).await;
    }
    let all = exporter.get_finished_spans().unwrap();
    let settled: Vec<&SpanData> = all
        .iter()
        .filter(|span| span.name == "settle user.created")
        .collect();
    let has = |span: &SpanData, key: &'static str, value: &'static str| {
        span.attributes.contains(&KeyValue::new(key, value))
    };
    assert_eq!(settled.len(), 2, "{all:?}");
    for (span, outcome) in settled.iter().zip(["ack", "reject"]) {
        assert!(has(span, "tidings.outcome", outcome), "{span:?}");
        assert!(has(span, "messaging.operation.type", "settle"));
        assert!(has(span, "messaging.consumer.group.name", "welcome"));
        assert_eq!(span.span_kind, SpanKind::Client);
        assert_eq!(span.status, Status::Unset);
        assert_eq!(span.parent_span_id.to_string(), "b7ad6b7169203331");
        assert_eq!(span.links.len(), 1);
    }
}
