//! The spans of `tidings relay`, and a receiver of OTLP over HTTP that takes them, or does not.

use std::{
    net::SocketAddr,
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
use tokio::{
    net::{TcpListener, TcpStream},
    process::Command,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    },
    server::TlsStream,
};

use crate::support::{Running, Store, World, eventually, says};

both!(
    a_sampled_event_has_a_span_of_the_program,
    spans_that_wait_are_sent_at_the_end,
    events_go_on_while_no_receiver_answers,
    a_silent_receiver_delays_the_end_by_seconds_only,
    a_bad_endpoint_is_a_fault_of_the_configuration,
    a_receiver_is_trusted_by_its_certificate,
);

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A receiver that keeps what it gets.
#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<Vec<Received>>>);

struct Received {
    api_key: Option<String>,
    request: ExportTraceServiceRequest,
}

impl Receiver {
    /// Listens at this address; returns it with the port.
    async fn listen(&self, address: &str) -> String {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, self.router()).into_future());
        address.to_string()
    }

    fn router(&self) -> Router {
        let router = Router::new().route("/v1/traces", post(receive));
        router.with_state(self.clone())
    }

    fn spans(&self) -> Vec<Span> {
        let received = self.0.lock().unwrap();
        let resources = received.iter().flat_map(|one| &one.request.resource_spans);
        let scopes = resources.flat_map(|one| &one.scope_spans);
        scopes.flat_map(|one| one.spans.clone()).collect()
    }

    /// The names of the services that have sent spans.
    fn services(&self) -> Vec<String> {
        let received = self.0.lock().unwrap();
        let resources = received.iter().flat_map(|one| &one.request.resource_spans);
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
    let api_key = headers.get("api-key");
    let api_key = api_key.map(|key| key.to_str().unwrap().to_owned());
    let mut received = receiver.0.lock().unwrap();
    received.push(Received { api_key, request });
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

/// A certificate for localhost, which is its own authority.
struct Certified {
    pem: String,
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Certified {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            certificate: certificate.der().clone(),
            key: key.serialize_der().into(),
        }
    }

    fn acceptor(self) -> TlsAcceptor {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth();
        let config = config.with_single_cert(vec![self.certificate], self.key.into());
        TlsAcceptor::from(Arc::new(config.unwrap()))
    }
}

struct TlsListener {
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (link, address) = self.listener.accept().await.unwrap();
            // A client that does not trust the certificate ends the handshake.
            if let Ok(link) = self.tls.accept(link).await {
                return (link, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

async fn a_receiver_is_trusted_by_its_certificate(world: World) {
    let world = world.set_up().await;
    let certified = Certified::new();
    world.write("trusted.pem", &certified.pem);
    world.write("another.pem", &Certified::new().pem);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tls = certified.acceptor();
    let receiver = Receiver::default();
    let serving = axum::serve(TlsListener { listener, tls }, receiver.router());
    tokio::spawn(serving.into_future());
    let relay = |trusted: &str| {
        let mut command = world.command(&["relay"]);
        command.env(
            "TIDINGS_TRACES_ENDPOINT",
            format!("https://localhost:{port}"),
        );
        command.env("TIDINGS_TRACES_HEADERS", "api-key=s3cret");
        command.env("SSL_CERT_FILE", world.path(trusted));
        command.stderr(std::process::Stdio::piped());
        Running::of(command)
    };

    write(&world, "01").await;
    let mut distrusting = relay("another.pem");
    let line = distrusting.says("spans not exported").await;
    says(&line, &["certificate"]);
    assert_eq!(distrusting.signalled("TERM").await, Some(0));
    assert_eq!(receiver.spans().len(), 0);

    write(&world, "01").await;
    let trusting = relay("trusted.pem");
    eventually("a span", || async { receiver.spans().len() == 1 }).await;
    assert_eq!(trusting.signalled("TERM").await, Some(0));
    let received = receiver.0.lock().unwrap();
    assert_eq!(received[0].api_key.as_deref(), Some("s3cret"));
}
