//! The spans of `tidings relay`, and a receiver of OTLP over HTTP that takes them, or does not.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value::Value, trace::v1::Span,
};
use prost::Message;
use tokio::{net::TcpListener, process::Command};

use crate::support::{Running, Store, World, eventually, says};

both!(
    a_sampled_event_has_a_span_of_the_program,
    spans_that_wait_are_sent_at_the_end,
    events_go_on_while_no_receiver_answers,
    a_silent_receiver_delays_the_end_by_seconds_only,
    a_bad_endpoint_is_a_fault_of_the_configuration,
);

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A receiver that keeps what it gets.
#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

impl Receiver {
    /// Listens at this address; returns it with the port.
    async fn listen(&self, address: &str) -> String {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/v1/traces", post(receive));
        let router = router.with_state(self.clone());
        tokio::spawn(axum::serve(listener, router).into_future());
        address.to_string()
    }

    fn spans(&self) -> Vec<Span> {
        let received = self.0.lock().unwrap();
        let resources = received.iter().flat_map(|one| &one.resource_spans);
        let scopes = resources.flat_map(|one| &one.scope_spans);
        scopes.flat_map(|one| one.spans.clone()).collect()
    }

    /// The names of the services that have sent spans.
    fn services(&self) -> Vec<String> {
        let received = self.0.lock().unwrap();
        let resources = received.iter().flat_map(|one| &one.resource_spans);
        let attributes = resources.flat_map(|one| &one.resource.as_ref().unwrap().attributes);
        let names = attributes.filter(|one| one.key == "service.name");
        names
            .map(|one| match one.value.clone().unwrap().value.unwrap() {
                Value::StringValue(name) => name,
                other => panic!("{other:?}"),
            })
            .collect()
    }
}

async fn receive(
    State(receiver): State<Receiver>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Vec<u8>) {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    receiver.0.lock().unwrap().push(request);
    (StatusCode::OK, Vec::new())
}

/// Writes an event with the context of a span, as a producer in any language.
async fn write(world: &World, flags: &str) {
    let (id, payload) = match world.store {
        Store::Postgres => ("gen_random_uuid()", "'{}'"),
        Store::Sqlite => ("randomblob(16)", "x'7b7d'"),
    };
    let row = format!(
        "insert into tidings_outbox (event, name, key, headers, payload) values
         ({id}, 'user.created', 'c', '{{\"traceparent\": \"00-{TRACE}-{PARENT}-{flags}\"}}', {payload})"
    );
    world.execute(&row).await;
}

/// A relay that sends spans to this address.
fn relay(world: &World, address: &str) -> Running {
    let mut command = world.command(&["relay"]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}"));
    command.env("OTEL_SERVICE_NAME", "orders-relay");
    command.stderr(std::process::Stdio::piped());
    Running::of(command)
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn a_sampled_event_has_a_span_of_the_program(world: World) {
    let world = world.set_up().await;
    let receiver = Receiver::default();
    let address = receiver.listen("127.0.0.1:0").await;
    write(&world, "00").await;
    write(&world, "01").await;
    let relay = relay(&world, &address);
    eventually("a span", || async { !receiver.spans().is_empty() }).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
    let [span] = &receiver.spans()[..] else {
        panic!(
            "the event that is not sampled has one: {:?}",
            receiver.spans()
        )
    };
    assert_eq!(span.name, "send user.created");
    assert_eq!(hex(&span.trace_id), TRACE);
    assert_eq!(hex(&span.parent_span_id), PARENT);
    assert_eq!(receiver.services(), ["orders-relay"]);
}

/// A span waits a second for others; the relay ends before that.
async fn spans_that_wait_are_sent_at_the_end(world: World) {
    let world = world.set_up().await;
    let receiver = Receiver::default();
    let address = receiver.listen("127.0.0.1:0").await;
    for _ in 0..20 {
        write(&world, "01").await;
    }
    let relay = relay(&world, &address);
    world.backlog_is(0).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
    assert_eq!(receiver.spans().len(), 20);
}

async fn events_go_on_while_no_receiver_answers(world: World) {
    let world = world.set_up().await;
    // The system gives its port to another process late.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    write(&world, "01").await;
    let mut relay = relay(&world, &address);
    let line = relay.says("spans not exported").await;
    says(&line, &["WARN", &address, "lost=0", "cannot be reached"]);
    for _ in 0..5 {
        write(&world, "01").await;
    }
    world.backlog_is(0).await;
    let receiver = Receiver::default();
    receiver.listen(&address).await;
    eventually("all spans", || async { receiver.spans().len() == 6 }).await;
    assert_eq!(relay.signalled("TERM").await, Some(0));
}

async fn a_silent_receiver_delays_the_end_by_seconds_only(world: World) {
    let world = world.set_up().await;
    // The system takes the connection, and no answer comes.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    write(&world, "01").await;
    let mut relay = relay(&world, &silent.local_addr().unwrap().to_string());
    world.backlog_is(0).await;
    let stop = ["-TERM", &relay.id().to_string()];
    let began = Instant::now();
    assert!(
        Command::new("kill")
            .args(stop)
            .status()
            .await
            .unwrap()
            .success()
    );
    let line = relay.says("spans lost at the end").await;
    says(&line, &["WARN", "lost=1", "in_time=false"]);
    assert_eq!(relay.left().await, Some(0));
    assert!(began.elapsed() < Duration::from_secs(10));
}

async fn a_bad_endpoint_is_a_fault_of_the_configuration(world: World) {
    let mut command = world.command(&["relay"]);
    command.env("TIDINGS_TRACES_ENDPOINT", "otel:4317");
    let ended = crate::support::ended(command).await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    let expected = ["environment TIDINGS_TRACES_ENDPOINT", "http://HOST:PORT"];
    says(&ended.stderr, &expected);
}
