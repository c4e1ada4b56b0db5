//! Exporters that send spans with the OpenTelemetry Protocol. Never installs anything.

#[cfg(feature = "otlp-http")]
use opentelemetry_otlp::Protocol;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracerProvider, TracerProviderBuilder},
};

/// A provider that sends spans to a collector over HTTP, as protobuf, in batches. `endpoint` is the whole address, such
/// as `http://localhost:4318/v1/traces`; `None` means that the SDK reads `OTEL_EXPORTER_OTLP_ENDPOINT`.
///
/// Every span is sent, unless a sampler is set. Shut the provider down when the worker has ended: what it has not sent
/// by then is lost.
///
/// ```
/// use opentelemetry_sdk::trace::Sampler;
///
/// let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(0.01)));
/// let provider = tidings_otel::otlp::http("accounts", Some("http://localhost:4318/v1/traces"))?
///     .with_sampler(sampler)
///     .build();
/// tidings_otel::observer(&provider).install()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When the endpoint is not an address.
#[cfg(feature = "otlp-http")]
pub fn http(
    service: &str,
    endpoint: Option<&str>,
) -> Result<TracerProviderBuilder, ExporterBuildError> {
    let exporter = SpanExporter::builder().with_http();
    let exporter = exporter.with_protocol(Protocol::HttpBinary);
    let exporter = match endpoint {
        Some(endpoint) => exporter.with_endpoint(endpoint),
        None => exporter,
    };
    Ok(provider(service, exporter.build()?))
}

/// A provider that sends spans to a collector over gRPC, in batches. `endpoint` is an address such as
/// `http://localhost:4317`; `None` means that the SDK reads `OTEL_EXPORTER_OTLP_ENDPOINT`. Call it inside a Tokio
/// runtime, which then sends the spans. Otherwise as `http`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let provider = tidings_otel::otlp::grpc("accounts", Some("http://localhost:4317"))?.build();
/// tidings_otel::observer(&provider).install()?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// When the endpoint is not an address.
#[cfg(feature = "otlp-grpc")]
pub fn grpc(
    service: &str,
    endpoint: Option<&str>,
) -> Result<TracerProviderBuilder, ExporterBuildError> {
    let exporter = SpanExporter::builder().with_tonic();
    let exporter = match endpoint {
        Some(endpoint) => exporter.with_endpoint(endpoint),
        None => exporter,
    };
    Ok(provider(service, exporter.build()?))
}

fn provider(service: &str, exporter: SpanExporter) -> TracerProviderBuilder {
    let resource = Resource::builder().with_service_name(service.to_owned());
    SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
}
