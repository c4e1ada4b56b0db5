//! One request with spans to a receiver of OTLP over HTTP. Never tries again.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    HeaderMap, Request, StatusCode,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tidings::error_text::error_texts;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};

use crate::{
    cli::report::{Exit, Report},
    config::Endpoint,
};

/// The most bytes of an answer that are read.
const LONGEST_ANSWER: usize = 64 * 1024;

pub(super) struct Receiver {
    endpoint: Endpoint,
    headers: HeaderMap,
    /// How long a request may take.
    within: Duration,
    tls: Option<TlsConnector>,
}

/// Why spans were not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportError {
    #[error("the receiver does not answer within {0:?}")]
    Late(Duration),
    #[error("the receiver cannot be reached")]
    Io(#[from] io::Error),
    #[error("the receiver does not answer in HTTP")]
    Http(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the receiver has answered with the HTTP status {0}")]
    Status(StatusCode),
}

impl ExportError {
    /// Whether the same request may succeed later, by the specification of OTLP.
    pub(super) fn is_temporary(&self) -> bool {
        match self {
            Self::Late(_) | Self::Io(_) | Self::Http(_) => true,
            Self::Status(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
        }
    }

    /// With its causes.
    pub(super) fn text(&self) -> String {
        error_texts(self).join(": ")
    }

    fn http(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Http(error.into())
    }
}

impl Receiver {
    /// # Errors
    /// When it wants TLS, and this host has no certificates to trust.
    pub(super) fn new(
        endpoint: Endpoint,
        headers: HeaderMap,
        within: Duration,
    ) -> Result<Self, Report> {
        let tls = match endpoint.is_tls {
            true => Some(tls()?),
            false => None,
        };
        Ok(Self {
            endpoint,
            headers,
            within,
            tls,
        })
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends spans. Returns how many the receiver has refused.
    pub(super) async fn send(&self, spans: Bytes) -> Result<u64, ExportError> {
        match timeout(self.within, self.connect_and_post(spans)).await {
            Ok(sent) => sent,
            Err(_) => Err(ExportError::Late(self.within)),
        }
    }

    async fn connect_and_post(&self, spans: Bytes) -> Result<u64, ExportError> {
        let host = &*self.endpoint.host;
        let link = TcpStream::connect((host, self.endpoint.port)).await?;
        match &self.tls {
            None => self.post(link, spans).await,
            Some(tls) => {
                let name = ServerName::try_from(host.to_owned()).map_err(ExportError::http)?;
                self.post(tls.connect(name, link).await?, spans).await
            }
        }
    }

    async fn post(
        &self,
        link: impl AsyncRead + AsyncWrite + Unpin + Send,
        spans: Bytes,
    ) -> Result<u64, ExportError> {
        let mut request = Request::post(&*self.endpoint.path)
            .header(HOST, &*self.endpoint.authority)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(USER_AGENT, concat!("tidings/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(spans))
            .map_err(ExportError::http)?;
        request.headers_mut().extend(self.headers.clone());
        let handshake = http1::handshake(TokioIo::new(link)).await;
        let (mut sender, connection) = handshake.map_err(ExportError::http)?;
        let exchange = async move {
            let answer = sender.send_request(request).await;
            let (head, body) = answer.map_err(ExportError::http)?.into_parts();
            if !head.status.is_success() {
                return Err(ExportError::Status(head.status));
            }
            let body = Limited::new(body, LONGEST_ANSWER).collect().await;
            Ok(refused(&body.map_err(ExportError::http)?.to_bytes()))
        };
        // The connection ends when the sender is gone.
        let (refused, _connection) = tokio::join!(exchange, connection);
        refused
    }
}

/// How many spans an answer says were refused. The spans of an answer that cannot be read were taken.
fn refused(answer: &[u8]) -> u64 {
    let answer = ExportTraceServiceResponse::decode(answer).ok();
    let partial = answer.and_then(|answer| answer.partial_success);
    let refused = partial.map_or(0, |partial| partial.rejected_spans);
    u64::try_from(refused).unwrap_or(0)
}

/// TLS that trusts what this host trusts.
fn tls() -> Result<TlsConnector, Report> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let report = Report::new(Exit::Failed, "this host has no certificates to trust");
        return Err(report.cure("traces.endpoint with http://, to a collector on this host"));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Report::new(Exit::Failed, "TLS cannot be used").because(Some(&error)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;

    use super::*;

    #[test]
    fn an_answer_says_how_many_spans_were_refused() {
        let answer = ExportTraceServiceResponse {
            partial_success: Some(ExportTracePartialSuccess {
                rejected_spans: 3,
                error_message: "too old".to_owned(),
            }),
        };
        assert_eq!(refused(&answer.encode_to_vec()), 3);
        assert_eq!(refused(b""), 0);
        assert_eq!(refused(b"<html>"), 0);
    }

    #[test]
    fn a_status_is_temporary_or_final() {
        let is_temporary = |status| {
            let status = StatusCode::from_u16(status).unwrap();
            ExportError::Status(status).is_temporary()
        };
        assert!([429, 502, 503, 504].into_iter().all(is_temporary));
        assert!(![400, 401, 404, 413, 500].into_iter().any(is_temporary));
    }
}
