//! What workers have to agree on, in a key-value bucket of NATS: an entry is written only over the revision
//! that its writer has seen. Never decides what an entry means.

use async_nats::{HeaderMap, Request, StatusCode, header};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::{Bus, BusError, REQUEST_TIMEOUT, Receipt};

/// The bucket, as other clients of NATS see it.
const BUCKET: &str = "TIDINGS";

/// An entry as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) revision: u64,
    pub(crate) value: Bytes,
}

impl Bus {
    /// Makes the bucket, if it is missing, with as many copies as another stream has.
    pub(crate) async fn open_state(&self, like: &str) -> Result<(), BusError> {
        #[derive(Deserialize)]
        struct Created {}
        let stream = format!("KV_{BUCKET}");
        if self.stream_info(&stream).await?.is_some() {
            return Ok(());
        }
        let info = self.stream_info(like).await?;
        let replicas = info.and_then(|info| info.config.get("num_replicas").cloned());
        let config = json!({
            "name": stream,
            "subjects": [format!("$KV.{BUCKET}.>")],
            "max_msgs_per_subject": 1,
            "num_replicas": replicas.unwrap_or(json!(1)),
            "storage": "file",
            "discard": "new",
            "deny_delete": true,
            "allow_rollup_hdrs": true,
            "allow_direct": true,
        });
        let subject = format!("$JS.API.STREAM.CREATE.{stream}");
        let _: Created = self.api(&subject, &config).await?;
        tracing::info!(bucket = BUCKET, "the bucket of the workers is made");
        Ok(())
    }

    /// Reads an entry. It may be older than the newest, which writing it then finds out.
    pub(crate) async fn read_state(&self, key: &str) -> Result<Option<Entry>, BusError> {
        let subject = format!("$JS.API.DIRECT.GET.KV_{BUCKET}.$KV.{BUCKET}.{key}");
        let request = Request::new()
            .payload(Bytes::new())
            .timeout(Some(REQUEST_TIMEOUT));
        let message = self.answer(&subject, request).await?;
        if message.status == Some(StatusCode::NOT_FOUND) {
            return Ok(None);
        }
        let headers = message.headers.as_ref();
        let revision = headers
            .and_then(|headers| headers.get("Nats-Sequence"))
            .and_then(|sequence| sequence.as_str().parse().ok());
        match revision {
            Some(revision) => Ok(Some(Entry {
                revision,
                value: message.payload,
            })),
            None => Err(BusError::Broken {
                subject,
                reason: "the answer has no sequence".to_owned(),
            }),
        }
    }

    /// Writes an entry over the revision that was seen, 0 for none, and gives the new one; `None` when
    /// somebody has written since.
    pub(crate) async fn write_state(
        &self,
        key: &str,
        value: Bytes,
        seen: u64,
    ) -> Result<Option<u64>, BusError> {
        const CHANGED: [u64; 2] = [10071, 10164];
        let subject = format!("$KV.{BUCKET}.{key}");
        let mut headers = HeaderMap::new();
        headers.insert(
            header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
            seen.to_string(),
        );
        let request = Request::new()
            .headers(headers)
            .payload(value)
            .timeout(Some(REQUEST_TIMEOUT));
        let answer = self.request(&subject, request).await?;
        match Receipt::read(&answer).into_result() {
            Ok(receipt) => Ok(Some(receipt.seq)),
            Err(error) if CHANGED.contains(&error.err_code) => Ok(None),
            Err(error) => Err(BusError::Api {
                subject,
                code: error.err_code,
                description: error.description,
            }),
        }
    }
}
