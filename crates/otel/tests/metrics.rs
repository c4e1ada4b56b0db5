//! The metrics of the semantic conventions, by the exporter in memory of the SDK. One process: one observer.

#![allow(clippy::unwrap_used)] // helpers of tests are test code

use opentelemetry::KeyValue;
use opentelemetry_sdk::{
    metrics::{
        InMemoryMetricExporter, PeriodicReader, SdkMeterProvider,
        data::{AggregatedMetrics, MetricData},
    },
    trace::{Sampler, SdkTracerProvider},
};
use sqlx::Sqlite;
use tidings::{Context, Envelope, EventPublisher, EventSubscriber, Failure, testing::TestWorker};
use tidings_test_support::{User, World};

/// A recorded series: its attributes, how often, and the sum.
struct Series {
    attributes: Vec<KeyValue>,
    count: u64,
    bounds: Vec<f64>,
}

struct Recorded(InMemoryMetricExporter, SdkMeterProvider);

impl Recorded {
    /// The series of a metric whose operation or subscriber is this, with the unit of the metric.
    fn series(&self, metric: &str, attribute: (&'static str, &'static str)) -> Vec<Series> {
        self.1.force_flush().unwrap();
        let finished = self.0.get_finished_metrics().unwrap();
        let last = finished.last().unwrap();
        let scopes = last.scope_metrics();
        let metrics = scopes.flat_map(|scope| {
            let schema = "https://opentelemetry.io/schemas/1.44.0";
            assert_eq!(scope.scope().schema_url(), Some(schema));
            scope.metrics()
        });
        let found = metrics.filter(|one| one.name() == metric);
        let all = found.flat_map(|one| match one.data() {
            AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                assert_eq!(one.unit(), "{message}");
                let points = sum.data_points().map(|point| Series {
                    attributes: point.attributes().cloned().collect(),
                    count: point.value(),
                    bounds: Vec::new(),
                });
                points.collect::<Vec<_>>()
            }
            AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
                assert_eq!(one.unit(), "s");
                let points = histogram.data_points().map(|point| Series {
                    attributes: point.attributes().cloned().collect(),
                    count: point.count(),
                    bounds: point.bounds().collect(),
                });
                points.collect()
            }
            other => panic!("{other:?}"),
        });
        let attribute = KeyValue::new(attribute.0, attribute.1);
        all.filter(|series| series.attributes.contains(&attribute))
            .collect()
    }

    fn count(&self, metric: &str, attribute: (&'static str, &'static str)) -> u64 {
        let series = self.series(metric, attribute);
        series.iter().map(|one| one.count).sum()
    }
}

async fn fail_ada(user: User, _: Context<()>) -> Result<(), Failure> {
    match &*user.id {
        "ada" => Err(Failure::reject("never")),
        _ => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_counted_and_timed_by_the_conventions() {
    let exporter = InMemoryMetricExporter::default();
    let reader = PeriodicReader::builder(exporter.clone()).build();
    let meters = SdkMeterProvider::builder().with_reader(reader).build();
    // Metrics count what no trace has.
    let spans = SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOff);
    let observer = tidings_otel::observer(&spans.build()).with_metrics(&meters);
    observer.install().unwrap();
    let recorded = Recorded(exporter, meters);
    let send = ("messaging.operation.name", "send");
    let name = ("messaging.destination.name", "user.created");
    let welcome = ("messaging.consumer.group.name", "welcome");

    let world = World::<Sqlite>::start().await;
    world.commit("ada").await;
    world.commit("bob").await;
    world.publish_all().await;
    assert_eq!(recorded.count("messaging.client.sent.messages", name), 2);
    let batches = recorded.count("messaging.client.operation.duration", send);
    assert!((1..=2).contains(&batches), "one for each batch: {batches}");

    let publisher = EventPublisher::new(&world.bus);
    publisher.publish(&User::new("eve")).await.unwrap();
    assert_eq!(recorded.count("messaging.client.sent.messages", name), 3);
    let nowhere = Envelope::raw("nowhere.published", 1, None, "{}").unwrap();
    publisher.publish(nowhere).await.unwrap_err();
    let error = ("error.type", "no-stream");
    assert_eq!(recorded.count("messaging.client.sent.messages", error), 1);
    assert_eq!(
        recorded.count("messaging.client.operation.duration", error),
        1
    );

    let subscriber = EventSubscriber::durable("welcome").on(fail_ada);
    let mut worker = TestWorker::new(subscriber, ());
    for id in ["ada", "bob"] {
        worker.deliver(Envelope::of(&User::new(id)).unwrap()).await;
    }
    assert_eq!(
        recorded.count("messaging.client.consumed.messages", welcome),
        2
    );
    let processed = recorded.series("messaging.process.duration", welcome);
    assert_eq!(processed.iter().map(|one| one.count).sum::<u64>(), 2);
    let advised = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75];
    assert!(processed[0].bounds.starts_with(&advised));
    let rejected = ("error.type", "rejected");
    assert_eq!(recorded.count("messaging.process.duration", rejected), 1);
}
