//! One trace from an HTTP request over outbox, relay and stream to the handler, although the first relay is killed.

use std::sync::Arc;

use axum::{Router, extract::State, routing::post};
use opentelemetry::{
    Context as Current, global,
    trace::{FutureExt, SpanKind, TraceContextExt, Tracer},
};
use opentelemetry_proto::tonic::trace::v1::Span;
use sqlx::Sqlite;
use tidings::{
    Context, EventSubscriber, Failure, Outbox, Worker,
    testing::failpoint::{self, Point},
};
use tidings_test_support::{User, World, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::collector::{Collector, text};

/// The endpoint of an application, which makes the span of each request.
async fn create_user(State(outbox): State<Arc<Outbox<Sqlite>>>) -> &'static str {
    let tracer = global::tracer("the application");
    let span = tracer.span_builder("POST /users");
    let span = tracer.build(span.with_kind(SpanKind::Server));
    let handling = async {
        let mut tx = outbox.begin().await.unwrap();
        tx.publish(&User::new("ada")).unwrap();
        tx.commit().await.unwrap();
    };
    handling.with_context(Current::new().with_span(span)).await;
    "created"
}

async fn welcome(_: User, _: Context<()>) -> Result<(), Failure> {
    global::tracer("the application").in_span("send mail", |_| ());
    Ok(())
}

async fn request(router: Router) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, router).into_future());
    let mut client = TcpStream::connect(address).await.unwrap();
    let request =
        "POST /users HTTP/1.1\r\nhost: accounts\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("created"),
        "{answer}"
    );
}

fn is_child(span: &Span, parent: &Span) -> bool {
    span.trace_id == parent.trace_id && span.parent_span_id == parent.span_id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_one_trace_although_a_relay_dies() {
    let collector = Collector::default();
    let endpoint = collector.over_grpc().await;
    let provider = tidings_otel::otlp::grpc("accounts", Some(&endpoint)).unwrap();
    let provider = provider.build();
    global::set_tracer_provider(provider.clone());
    tidings_otel::observer(&provider).install().unwrap();

    let world = World::<Sqlite>::start().await;
    let relay = world.new_relay();
    let armed = failpoint::arm(relay.owner(), Point::Answered, 1);
    let relay = world.run_relay(relay);
    let router = Router::new().route("/users", post(create_user));
    request(router.with_state(Arc::new(world.outbox.clone()))).await;
    within("the death of the relay", armed.reached()).await;
    relay.kill().await;
    let next = world.relay();
    let subscriber = EventSubscriber::durable("welcome").on(welcome);
    let worker = world.run(Worker::new(world.bus.clone(), ()).subscribe(subscriber));
    world.backlog_is_gone().await;
    // A batch of spans is sent every five seconds.
    let request = collector.named("POST /users").await;
    let sent = collector.named("send user.created").await;
    let processed = collector.named("process user.created").await;
    let mail = collector.named("send mail").await;
    worker.stop().await.unwrap();
    next.stop().await.unwrap();
    let shut_down = tokio::task::spawn_blocking(move || provider.shutdown());
    shut_down.await.unwrap().unwrap();

    assert!(request.parent_span_id.is_empty());
    assert!(is_child(&sent, &request) && is_child(&processed, &request));
    assert!(is_child(&mail, &processed));
    assert_eq!(processed.links.len(), 1);
    assert_eq!(processed.links[0].span_id, request.span_id);
    assert_eq!(
        text(&processed.attributes, "messaging.consumer.group.name").as_deref(),
        Some("welcome")
    );
    assert!(sent.start_time_unix_nano <= processed.end_time_unix_nano);
    let names: Vec<String> = collector
        .spans()
        .into_iter()
        .map(|span| span.name)
        .collect();
    assert_eq!(names.len(), 4, "no span is an orphan: {names:?}");
    assert!(collector.services().iter().all(|name| name == "accounts"));
}
