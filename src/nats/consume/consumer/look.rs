//! A consumer as it is checked every few seconds. Never changes one.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::ConsumerSpec;
use crate::nats::{
    Bus, BusError,
    protocol::api,
    stream::settings::{durable_issues, starts_beyond},
};

/// The state of a consumer, as it is checked every few seconds.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ConsumerLook {
    pub(crate) config: Map<String, Value>,
    delivered: Delivered,
    ack_floor: Floor,
    /// Messages that were never delivered.
    pub(crate) num_pending: u64,
    /// Deliveries that are not acknowledged.
    pub(crate) num_ack_pending: u64,
    #[serde(default)]
    pub(crate) paused: bool,
    /// The issue when the next sequence lies beyond the end of the stream.
    #[serde(skip)]
    pub(crate) beyond: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Floor {
    stream_seq: u64,
}

#[derive(Debug, Clone, Deserialize)]
struct Delivered {
    consumer_seq: u64,
    stream_seq: u64,
}

impl ConsumerLook {
    /// The sequence of the stream up to which all messages are acknowledged.
    pub(crate) fn floor(&self) -> u64 {
        self.ack_floor.stream_seq
    }

    /// The number of deliveries so far.
    pub(crate) fn deliveries(&self) -> u64 {
        self.delivered.consumer_seq
    }

    /// The last sequence of the stream that was delivered, or after which the consumer starts.
    pub(crate) fn delivered_up_to(&self) -> u64 {
        self.delivered.stream_seq
    }

    /// The limit of deliveries that are ack pending at once.
    pub(crate) fn max_ack_pending(&self) -> u64 {
        let most = self.config.get("max_ack_pending").and_then(Value::as_u64);
        most.unwrap_or(u64::MAX)
    }
}

impl Bus {
    /// The present state of a consumer. The stream is known to have all sequences up to `within`.
    pub(crate) async fn consumer_look(
        &self,
        spec: &ConsumerSpec,
        within: u64,
    ) -> Result<ConsumerLook, BusError> {
        let (stream, durable) = (&spec.stream, &spec.durable);
        let subject = api::consumer_info(stream, durable);
        let mut look: ConsumerLook = self.api(&subject, &json!({})).await?;
        let delivered = look.delivered_up_to();
        if look.num_pending == 0 && delivered > within {
            // Requested after the consumer: messages that the stream has received in between only make it longer.
            let info = self.stream_info(stream).await?;
            let last = info.map_or(delivered, |info| info.state.last_seq);
            look.beyond = starts_beyond(stream, durable, delivered, last);
        }
        Ok(look)
    }

    /// Fails when the subscriber must not pull from a consumer with its present settings.
    pub(crate) async fn check_consumer(&self, spec: &ConsumerSpec) -> Result<(), BusError> {
        let Some(config) = self.consumer_config(spec).await? else {
            return Ok(());
        };
        let issues = durable_issues(&spec.stream, &spec.durable, &config);
        match issues.into_iter().find(|issue| issue.stops) {
            Some(issue) => Err(BusError::Settings { issue: issue.text }),
            None => Ok(()),
        }
    }
}
