//! Durable consumers as the server has them: lists and pauses them. Never creates, changes or deletes one.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, stream};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::origin;
use crate::nats::{
    Bus, BusError,
    protocol::{api, codes},
};

/// How many streams are requested at once.
const AT_ONCE: usize = 8;

/// The durable consumers, as far as they are visible.
#[derive(Debug, Default)]
pub(crate) struct Durables {
    pub(crate) found: Vec<Durable>,
    /// The existing streams.
    pub(crate) streams: Vec<String>,
    /// The streams whose consumers are not visible, and why. Without a stream: all of them.
    pub(crate) unseen: Vec<(Option<String>, BusError)>,
    /// How far the server's clock is ahead of the local clock, if the server has stated its time.
    pub(crate) server_ahead: TimeDelta,
}

/// A durable consumer.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Durable {
    #[serde(rename = "stream_name")]
    pub(crate) stream: String,
    pub(crate) name: String,
    pub(crate) config: Map<String, Value>,
    /// Messages that were never delivered.
    #[serde(default)]
    pub(crate) num_pending: u64,
    /// Deliveries that are not acknowledged.
    #[serde(default)]
    pub(crate) num_ack_pending: u64,
    /// Of those, the deliveries that were delivered more than once.
    #[serde(default)]
    pub(crate) num_redelivered: u64,
    /// Pull requests that wait.
    #[serde(default)]
    pub(crate) num_waiting: u64,
    /// When it was created.
    pub(crate) created: DateTime<Utc>,
    #[serde(default)]
    delivered: Place,
    #[serde(default)]
    ack_floor: Place,
    #[serde(default)]
    paused: bool,
    /// When the server answered, by its clock.
    ts: Option<DateTime<Utc>>,
}

/// A position of the consumer.
#[derive(Debug, Clone, Default, Deserialize)]
struct Place {
    #[serde(default)]
    stream_seq: u64,
    last_active: Option<DateTime<Utc>>,
}

impl Durable {
    /// Until when it is paused, if it is.
    pub(crate) fn paused_until(&self) -> Option<DateTime<Utc>> {
        let until = self.config.get("pause_until")?.as_str()?.parse().ok();
        until.filter(|_| self.paused)
    }

    /// The last sequence of the stream that was delivered.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.stream_seq
    }

    /// The sequence of the stream up to which all messages are acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.ack_floor.stream_seq
    }

    pub(crate) fn last_delivery_at(&self) -> Option<DateTime<Utc>> {
        self.delivered.last_active
    }

    /// The time of its last delivery or ack: an instance pulled from it then.
    pub(crate) fn last_active_at(&self) -> Option<DateTime<Utc>> {
        self.delivered.last_active.max(self.ack_floor.last_active)
    }

    /// Whether a worker of Tidings has created it.
    pub(crate) fn is_ours(&self) -> bool {
        origin::is_marked(&self.config)
    }

    /// Whether it is the consumer of a replay, and so of no subscriber.
    pub(crate) fn is_of_replay(&self) -> bool {
        origin::replay(&self.config).is_some()
    }

    /// The streams that have a consumer of its subscriber, as the last worker that started has recorded them.
    pub(crate) fn sibling_streams(&self) -> Vec<String> {
        origin::streams(&self.config)
    }

    /// The earliest sequence to which the server resets it: the one at which it was created. `None` when it cannot be
    /// reset to any sequence.
    pub(crate) fn earliest(&self) -> Option<u64> {
        match self.config.get("deliver_policy").and_then(Value::as_str) {
            // For a start time, the server itself refuses earlier positions.
            None | Some("all" | "by_start_time") => Some(1),
            Some("by_start_sequence") => self.config.get("opt_start_seq")?.as_u64(),
            Some(_) => None,
        }
    }

    /// Whether it delivers only messages of this subject.
    pub(crate) fn takes_only(&self, subject: &str) -> bool {
        self.config.get("filter_subject").and_then(Value::as_str) == Some(subject)
    }
}

impl Bus {
    /// All durable consumers of all streams.
    pub(crate) async fn durables(&self) -> Result<Vec<Durable>, BusError> {
        let Durables {
            found, mut unseen, ..
        } = self.seen_durables().await;
        match unseen.pop() {
            Some((_, error)) => Err(error),
            None => Ok(found),
        }
    }

    /// All durable consumers that are visible: a stream without a leader does not hide those of other streams.
    pub(crate) async fn seen_durables(&self) -> Durables {
        let mut durables = Durables::default();
        match self.paged(api::STREAM_NAMES, "streams").await {
            Ok(streams) => durables.streams = streams,
            Err(error) => {
                durables.unseen.push((None, error));
                return durables;
            }
        }
        let asking = durables
            .streams
            .clone()
            .into_iter()
            .map(|stream| async move {
                let subject = api::consumer_list(&stream);
                let listed = self.paged::<Durable>(&subject, "consumers").await;
                (stream, listed, Utc::now())
            });
        let mut asking = stream::iter(asking).buffered(AT_ONCE);
        while let Some((stream, listed, now)) = asking.next().await {
            match listed {
                Ok(consumers) => {
                    let told = consumers.iter().filter_map(|one| one.ts).max();
                    if let Some(told) = told {
                        durables.server_ahead = told - now;
                    }
                    durables.found.extend(consumers);
                }
                Err(BusError::Refused {
                    code: codes::STREAM_NOT_FOUND,
                    ..
                }) => {}
                Err(error) => durables.unseen.push((Some(stream), error)),
            }
        }
        let found = &mut durables.found;
        found.retain(|consumer| consumer.config.contains_key("durable_name"));
        durables
    }

    /// Pauses a consumer until a time, or ends its pause. False when the consumer does not exist.
    pub(crate) async fn pause_consumer(
        &self,
        (stream, durable): (&str, &str),
        until: Option<DateTime<Utc>>,
    ) -> Result<bool, BusError> {
        let subject = api::consumer_pause(stream, durable);
        let request = match until {
            Some(until) => json!({ "pause_until": until }),
            None => json!({}),
        };
        match self.api::<Map<String, Value>>(&subject, &request).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_gone() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The names of the durables that a stream has.
    pub(crate) async fn durables_of(&self, stream: &str) -> Result<BTreeSet<String>, BusError> {
        let subject = api::consumer_list(stream);
        let listed = self.paged::<Durable>(&subject, "consumers").await?;
        Ok(listed.into_iter().map(|one| one.name).collect())
    }

    /// All items of a list that the server gives page by page.
    async fn paged<T: DeserializeOwned>(
        &self,
        subject: &str,
        field: &str,
    ) -> Result<Vec<T>, BusError> {
        let broken = |reason: String| BusError::Broken {
            subject: subject.to_owned(),
            reason,
        };
        let mut items = Vec::new();
        loop {
            let request = json!({ "offset": items.len() });
            let mut page: Map<String, Value> = self.api(subject, &request).await?;
            if let Some(Value::Array(missing)) = page.get("missing")
                && !missing.is_empty()
            {
                let missing = Value::from(missing.clone());
                return Err(broken(format!(
                    "some entries have no leader now: {missing}"
                )));
            }
            let total = page.get("total").and_then(Value::as_u64).unwrap_or(0);
            let found = match page.remove(field) {
                Some(Value::Array(found)) => found,
                _ => Vec::new(),
            };
            if found.is_empty() {
                return Ok(items);
            }
            for item in found {
                items.push(serde_json::from_value(item).map_err(|e| broken(e.to_string()))?);
            }
            if items.len() as u64 >= total {
                return Ok(items);
            }
        }
    }
}
