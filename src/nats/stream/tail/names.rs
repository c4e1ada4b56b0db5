//! The names of the consumers of readers. Never reads.
//!
//! Usually a name is unique. A user whose permissions list the consumers that it may create reads under names from that
//! list: then there are few, and a reader takes the first free name and releases it afterwards.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tidings_contract::EventId;

use crate::nats::{
    Bus, BusError, BusErrorKind,
    protocol::{
        api,
        names::{metadata::READER, reader},
    },
};

/// How many readers with one name a stream may have at once.
const MOST: usize = 2;
/// How long the server keeps a consumer that is not pulled from.
const KEPT: Duration = Duration::from_secs(60);
/// The same for a consumer whose name other readers wait for.
pub(super) const KEPT_BY_NAME: Duration = Duration::from_secs(10);

impl Bus {
    /// The same connection; the consumers of its readers get this name, followed by a number.
    #[cfg(feature = "outbox")]
    pub(crate) fn reading_as(&self, name: &str) -> Self {
        Self {
            readers: Some(name.into()),
            ..self.clone()
        }
    }

    /// Creates the consumer of a reader under the first free name, and returns the name.
    pub(super) async fn create_reader<T: DeserializeOwned>(
        &self,
        stream: &str,
        filter: Option<&str>,
        mut config: Value,
    ) -> Result<(String, T), BusError> {
        let id = EventId::now().as_uuid().simple().to_string();
        let (names, kept) = match &self.readers {
            None => (vec![id], KEPT),
            Some(name) => {
                config["metadata"] = json!({ READER: id });
                (numbered(name), KEPT_BY_NAME)
            }
        };
        config["inactive_threshold"] = json!(u64::try_from(kept.as_nanos()).unwrap_or(u64::MAX));
        let mut last = String::new();
        for name in names {
            config["name"] = json!(name);
            let subject = match filter {
                Some(filter) => api::consumer_create_filtered(stream, &name, filter),
                None => api::consumer_create(stream, &name),
            };
            match self
                .create_ephemeral(&subject, stream, config.clone())
                .await
            {
                Err(error) if error.kind() == BusErrorKind::NameInUse => last = subject,
                created => return created.map(|created| (name, created)),
            }
        }
        Err(BusError::Broken {
            subject: last,
            reason: format!(
                "{MOST} readers of this name read {stream} already; the consumer of a reader that died is deleted \
                 within {KEPT_BY_NAME:?}"
            ),
        })
    }

    /// Deletes the consumer of a reader, which frees its name. Never waits: the server deletes the rest by itself.
    /// Returns whether the request was sent.
    pub(super) fn end_reader(&self, stream: &str, name: &str) -> bool {
        if !self.is_connected() {
            return false;
        }
        let subject = api::consumer_delete(stream, name);
        let asked = self.client.publish(subject, Bytes::new()).now_or_never();
        matches!(asked, Some(Ok(())))
    }
}

fn numbered(name: &Arc<str>) -> Vec<String> {
    (1..=MOST).map(|number| reader(name, number)).collect()
}
