//! OTLP over HTTP.

use opentelemetry::trace::{Tracer, TracerProvider};

use crate::collector::Collector;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_are_sent_over_http() {
    let collector = Collector::default();
    let endpoint = collector.over_http().await;
    let provider = tidings_otel::otlp::http("accounts", Some(&endpoint)).unwrap();
    let provider = provider.build();
    provider.tracer("a test").in_span("a span", |_| ());
    let flushed = tokio::task::spawn_blocking(move || provider.force_flush());
    flushed.await.unwrap().unwrap();
    assert_eq!(collector.spans().len(), 1);
    assert_eq!(collector.services(), ["accounts"]);
}
