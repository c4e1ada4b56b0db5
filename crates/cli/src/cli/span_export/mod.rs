//! The spans of a relay that runs as a program, sent to a receiver of OTLP over HTTP. The relay never waits for it: the
//! queue between them is bounded, and what does not fit is dropped, counted and logged.

mod exporter;
mod issue;
mod queue;
mod receiver;

use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use self::{exporter::Exporter, receiver::Receiver};
use super::report::{Exit, Report};
use crate::config::TracesSettings;

pub(super) use queue::{Spans, queue};

/// Spans that are made and sent, until the end.
pub(super) struct SpanExport {
    stop: CancellationToken,
    exporting: AbortOnDropHandle<()>,
}

impl SpanExport {
    /// Makes spans of what happens in this process from now on, if there is a receiver.
    ///
    /// # Errors
    /// When the receiver wants TLS, and this host has no certificates to trust.
    pub(super) fn begin(settings: &TracesSettings) -> Result<Option<Self>, Report> {
        let Some(endpoint) = &settings.endpoint else {
            return Ok(None);
        };
        let receiver = Receiver::new(endpoint.clone(), settings.headers.clone(), settings.timeout)?;
        let service = settings.service_name.clone();
        let resource = Resource::builder().with_service_name(service).build();
        let (queue, spans) = queue();
        let stop = CancellationToken::new();
        let exporter = Exporter::new(spans, receiver, &resource, stop.clone());
        let provider = SdkTracerProvider::builder()
            .with_span_processor(queue)
            .with_resource(resource)
            .build();
        tidings_otel::observer(&provider)
            .install()
            .map_err(|error| {
                Report::new(Exit::Failed, "spans cannot be made").because(Some(&error))
            })?;
        tracing::info!(endpoint = %endpoint, "trace export started");
        Ok(Some(Self {
            stop,
            exporting: AbortOnDropHandle::new(tokio::spawn(exporter.run())),
        }))
    }

    /// Sends what waits, as far as that is possible in five seconds.
    pub(super) async fn end(self) {
        self.stop.cancel();
        if let Err(error) = self.exporting.await {
            tracing::error!(%error, "trace export panicked");
        }
    }
}
