//! A collector that keeps what it receives.

use std::sync::{Arc, Mutex};

use axum::{Router, body::Bytes, extract::State, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message;
use tidings_test_support::eventually;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, transport::Server, transport::server::TcpIncoming};

#[derive(Clone, Default)]
pub struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

impl Collector {
    /// Listens for gRPC on a free port; returns its address.
    pub async fn over_grpc(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = TraceServiceServer::new(self.clone());
        let server = Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        format!("http://{address}")
    }

    /// Listens for HTTP on a free port; returns the address for traces.
    pub async fn over_http(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/v1/traces", post(receive));
        let router = router.with_state(self.clone());
        tokio::spawn(axum::serve(listener, router).into_future());
        format!("http://{address}/v1/traces")
    }

    fn keep(&self, request: ExportTraceServiceRequest) {
        self.0.lock().unwrap().push(request);
    }

    /// All spans.
    pub fn spans(&self) -> Vec<Span> {
        let received = self.0.lock().unwrap();
        let resources = received.iter().flat_map(|one| &one.resource_spans);
        let scopes = resources.flat_map(|one| &one.scope_spans);
        scopes.flat_map(|one| one.spans.clone()).collect()
    }

    /// The names of the services that have sent spans.
    pub fn services(&self) -> Vec<String> {
        let received = self.0.lock().unwrap();
        let resources = received.iter().flat_map(|one| &one.resource_spans);
        let resources = resources.filter_map(|one| one.resource.as_ref());
        resources
            .filter_map(|one| text(&one.attributes, "service.name"))
            .collect()
    }

    /// Waits for the span of this name.
    pub async fn named(&self, name: &str) -> Span {
        let find = || self.spans().into_iter().find(|span| span.name == name);
        eventually(name, || async { find().is_some() }).await;
        find().unwrap()
    }
}

/// The text of an attribute.
pub fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|one| one.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        other => Some(format!("{other:?}")),
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.keep(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn receive(State(collector): State<Collector>, body: Bytes) -> Vec<u8> {
    collector.keep(ExportTraceServiceRequest::decode(body).unwrap());
    ExportTraceServiceResponse::default().encode_to_vec()
}
