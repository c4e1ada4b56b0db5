//! What the consumers of readers are called. Never reads.
//!
//! Usually a name that no other reader ever has. A user whose permissions name what it may create reads under names
//! that they can name: then there are few, and a reader takes the first one that is free and gives it back.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tidings_contract::EventId;

use crate::bus::{Bus, BusError};

/// How many readers of one name there may be of a stream at once.
const MOST: usize = 2;
/// How long a consumer is kept that nobody pulls from.
const KEPT: Duration = Duration::from_secs(60);
/// And one whose name others wait for.
pub(super) const KEPT_BY_NAME: Duration = Duration::from_secs(10);
/// A consumer of the name is there: by its name, as an active one, with other settings.
const TAKEN: [u64; 3] = [10013, 10105, 10148];

impl Bus {
    /// The same connection; its readers have consumers that are called so, with a number behind it.
    #[cfg(feature = "outbox")]
    pub(crate) fn reading_as(&self, name: &str) -> Self {
        Self {
            readers: Some(name.into()),
            ..self.clone()
        }
    }

    /// Makes the consumer of a reader, under the first name that is free; gives the name.
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
                // Another reader's is never taken for this one.
                config["metadata"] = json!({ "tidings.reader": id });
                (numbered(name), KEPT_BY_NAME)
            }
        };
        config["inactive_threshold"] = json!(u64::try_from(kept.as_nanos()).unwrap_or(u64::MAX));
        let mut last = String::new();
        for name in names {
            config["name"] = json!(name);
            let subject = match filter {
                Some(filter) => format!("$JS.API.CONSUMER.CREATE.{stream}.{name}.{filter}"),
                None => format!("$JS.API.CONSUMER.CREATE.{stream}.{name}"),
            };
            match self
                .create_ephemeral(&subject, stream, config.clone())
                .await
            {
                Err(BusError::Api { code, .. }) if TAKEN.contains(&code) => last = subject,
                created => return created.map(|created| (name, created)),
            }
        }
        Err(BusError::Broken {
            subject: last,
            reason: format!(
                "{MOST} readers of this name read {stream} already; what one has left that died goes within {KEPT_BY_NAME:?}"
            ),
        })
    }

    /// Gives the consumer of a reader back, and its name. Never waits: what is not deleted goes by itself. Whether the
    /// server is asked.
    pub(super) fn end_reader(&self, stream: &str, name: &str) -> bool {
        if !self.is_connected() {
            return false;
        }
        let subject = format!("$JS.API.CONSUMER.DELETE.{stream}.{name}");
        let asked = self.client.publish(subject, Bytes::new()).now_or_never();
        matches!(asked, Some(Ok(())))
    }
}

fn numbered(name: &Arc<str>) -> Vec<String> {
    (1..=MOST)
        .map(|number| format!("{name}-{number}"))
        .collect()
}
