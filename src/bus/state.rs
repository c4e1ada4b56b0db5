//! What workers have to agree on, in a key-value bucket of NATS: an entry is written only over the revision
//! that its writer has seen. Never decides what an entry means.

use std::time::Duration;

use async_nats::{HeaderMap, Request, StatusCode, header};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::{Bus, BusError, REQUEST_TIMEOUT, Receipt};

/// The bucket, as other clients of NATS see it.
pub(super) const BUCKET: &str = "TIDINGS";

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
        if let Some(mut info) = self.stream_info(&stream).await? {
            let timed = info.config.insert("allow_msg_ttl".to_owned(), json!(true));
            if timed == Some(json!(true)) {
                return Ok(());
            }
            let subject = format!("$JS.API.STREAM.UPDATE.{stream}");
            let _: Created = self.api(&subject, &info.config).await?;
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
            "allow_msg_ttl": true,
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
        self.write_state_for(None, key, value, seen).await
    }

    /// The same for a time, after which there is no entry.
    pub(crate) async fn write_state_for(
        &self,
        time: Option<Duration>,
        key: &str,
        value: Bytes,
        seen: u64,
    ) -> Result<Option<u64>, BusError> {
        let mut headers = over(seen);
        if let Some(time) = time {
            headers.insert("Nats-TTL", seconds(time));
        }
        unless_changed(self.put_state(key, headers, value).await)
    }

    /// Writes an entry when the newest of several, named with `*`, has the revision that was seen.
    pub(crate) async fn write_state_behind(
        &self,
        key: &str,
        value: Bytes,
        (of, seen): (&str, u64),
    ) -> Result<Option<u64>, BusError> {
        let mut headers = over(seen);
        let all = format!("$KV.{BUCKET}.{of}");
        headers.insert("Nats-Expected-Last-Subject-Sequence-Subject", all);
        unless_changed(self.put_state(key, headers, value).await)
    }

    /// Makes an entry empty, whatever it is; after a time it is gone.
    pub(crate) async fn clear_state(&self, time: Duration, key: &str) -> Result<(), BusError> {
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", "DEL");
        headers.insert("Nats-TTL", seconds(time));
        let cleared = self.put_state(key, headers, Bytes::new()).await;
        cleared.map(drop)
    }

    async fn put_state(
        &self,
        key: &str,
        headers: HeaderMap,
        value: Bytes,
    ) -> Result<u64, BusError> {
        let subject = format!("$KV.{BUCKET}.{key}");
        let request = Request::new()
            .headers(headers)
            .payload(value)
            .timeout(Some(REQUEST_TIMEOUT));
        let answer = match self.request(&subject, request).await {
            Ok(answer) => answer,
            Err(error) => return Err(Box::pin(self.why_unstored(&subject, error)).await),
        };
        match Receipt::read(&answer).into_result() {
            Ok(receipt) => Ok(receipt.seq),
            Err(error) => Err(BusError::Api {
                subject,
                code: error.err_code,
                description: error.description,
            }),
        }
    }
}

fn over(seen: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let seen = seen.to_string();
    headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, seen);
    headers
}

fn unless_changed(written: Result<u64, BusError>) -> Result<Option<u64>, BusError> {
    const CHANGED: [u64; 2] = [10071, 10164];
    match written {
        Ok(revision) => Ok(Some(revision)),
        Err(BusError::Api { code, .. }) if CHANGED.contains(&code) => Ok(None),
        Err(error) => Err(error),
    }
}

fn seconds(time: Duration) -> String {
    format!("{}s", time.as_secs().max(1))
}
