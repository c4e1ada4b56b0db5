//! The spans around begin and commit of an inbox, which `tracing` makes at debug.

use opentelemetry::trace::TraceContextExt;
use sqlx::Sqlite;
use tidings::{Context, EventSubscriber, Failure, InboxTransaction, Worker};
use tracing_subscriber::{Layer, filter::LevelFilter, layer::SubscriberExt};

use crate::{
    spans::{created_by, is_child, spans},
    support::{User, World},
};

async fn nothing(_: User, _: InboxTransaction<Sqlite>, _: Context<()>) -> Result<(), Failure> {
    Ok(())
}

/// The names of the spans of the inbox, below the `process` span of an event that is handled with this filter.
async fn of_the_inbox(level: LevelFilter) -> Vec<&'static str> {
    let layer = tracing_opentelemetry::layer().with_tracer(spans().tracer());
    let layers = tracing_subscriber::registry().with(layer.with_filter(level));
    // For the only thread of this test.
    let _subscriber = tracing::subscriber::set_default(layers);
    let world = World::<Sqlite>::start().await;
    let request = spans().request().span().span_context().clone();
    let event = created_by(&request, "ada");
    let id = event.id();
    world.commit_all([event]).await;
    world.publish_all().await;
    let subscriber = EventSubscriber::durable("welcome");
    let subscriber = subscriber.on_transactional(&world.outbox, nothing);
    let worker = world.run(Worker::new(world.bus.clone(), ()).subscribe(subscriber));
    let process = spans().reach("process", id, 1).await.remove(0).span_context;
    worker.stop().await.unwrap();
    let trace = process.trace_id();
    let handler = spans().named("handler", trace).pop().unwrap().span_context;
    let mut names = vec!["inbox begin", "inbox commit"];
    names.retain(|name| {
        let found = spans().named(name, trace).pop();
        found.is_some_and(|span| is_child(&span, &handler))
    });
    names
}

#[tokio::test]
async fn begin_and_commit_have_spans_at_debug() {
    assert_eq!(
        of_the_inbox(LevelFilter::DEBUG).await,
        ["inbox begin", "inbox commit"]
    );
}

#[tokio::test]
async fn begin_and_commit_have_no_spans_at_info() {
    assert_eq!(of_the_inbox(LevelFilter::INFO).await, [""; 0]);
}
