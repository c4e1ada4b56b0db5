//! Distinguishes a consumer that a worker of Tidings has created from one of another application, by a tag in its
//! metadata. The consumer of the retries, which every subscriber has, also lists the streams with its other consumers,
//! so that one that is deleted while no worker runs is noticed. Never changes how anything is delivered.

use serde_json::{Map, Value, json};

use crate::{
    nats::{
        Bus, BusError, ConsumerSpec,
        protocol::{
            api,
            names::metadata::{REPLAY, STREAMS, SUBSCRIBER},
        },
    },
    replay::tag::ReplayId,
};

const METADATA: &str = "metadata";

/// Tags a configuration as that of a subscriber; other metadata stays.
pub(in crate::nats) fn mark(config: &mut Map<String, Value>, subscriber: &str) {
    set(config, SUBSCRIBER, subscriber);
}

pub(in crate::nats) fn is_marked(config: &Map<String, Value>) -> bool {
    text(config, SUBSCRIBER).is_some()
}

/// Tags the consumer of a replay.
pub(in crate::nats) fn mark_replay(config: &mut Map<String, Value>, replay: ReplayId) {
    set(config, REPLAY, &replay.to_string());
}

/// The replay that a consumer belongs to.
pub(in crate::nats) fn replay(config: &Map<String, Value>) -> Option<ReplayId> {
    text(config, REPLAY)?.parse().ok()
}

/// The streams of the subscriber's events; empty when they are not recorded.
pub(in crate::nats) fn streams(config: &Map<String, Value>) -> Vec<String> {
    let streams = text(config, STREAMS).unwrap_or_default().split(',');
    let streams = streams.filter(|stream| !stream.is_empty());
    streams.map(str::to_owned).collect()
}

fn text<'a>(config: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    config.get(METADATA)?.get(name)?.as_str()
}

fn set(config: &mut Map<String, Value>, name: &str, text: &str) {
    let metadata = config.entry(METADATA).or_insert_with(|| json!({}));
    if !metadata.is_object() {
        *metadata = json!({});
    }
    metadata[name] = json!(text);
}

impl Bus {
    /// Records on the consumer of the retries which streams have the events of its subscriber, unless it is up to date,
    /// and tags a consumer that was created without a tag.
    pub(crate) async fn note_streams(
        &self,
        of_retries: &ConsumerSpec,
        of_events: &[ConsumerSpec],
    ) -> Result<(), BusError> {
        let names: Vec<&str> = of_events.iter().map(|spec| &*spec.stream).collect();
        let names = names.join(",");
        for (spec, names) in of_events
            .iter()
            .map(|spec| (spec, None))
            .chain([(of_retries, Some(&*names))])
        {
            let Some(mut config) = self.consumer_config(spec).await? else {
                continue;
            };
            let is_known = names.is_none_or(|names| text(&config, STREAMS) == Some(names));
            if is_marked(&config) && is_known {
                continue;
            }
            mark(&mut config, &spec.durable);
            if let Some(names) = names {
                set(&mut config, STREAMS, names);
            }
            self.update_metadata(spec, &config).await?;
        }
        Ok(())
    }

    async fn update_metadata(
        &self,
        spec: &ConsumerSpec,
        config: &Map<String, Value>,
    ) -> Result<(), BusError> {
        let ConsumerSpec {
            stream, durable, ..
        } = spec;
        let subject = match config.get("filter_subject").and_then(Value::as_str) {
            Some(filter) => api::consumer_create_filtered(stream, durable, filter),
            None => api::consumer_create(stream, durable),
        };
        let request = json!({ "stream_name": stream, "config": config, "action": "update" });
        self.api::<Map<String, Value>>(&subject, &request)
            .await
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_of_other_tools_is_not_changed() {
        let config = json!({ "metadata": { "owner": "team-a" } });
        let mut config = config.as_object().unwrap().clone();
        assert!(!is_marked(&config));
        mark(&mut config, "welcome-email");
        set(&mut config, STREAMS, "EVENTS,USERS");
        assert!(is_marked(&config));
        assert_eq!(config["metadata"]["owner"], "team-a");
        assert_eq!(replay(&config), None);
        let id = ReplayId::new();
        mark_replay(&mut config, id);
        assert_eq!(replay(&config), Some(id));
        assert_eq!(streams(&config), ["EVENTS", "USERS"]);
        let mut broken = Map::from_iter([("metadata".to_owned(), json!(7))]);
        mark(&mut broken, "w");
        assert!(is_marked(&broken) && streams(&broken).is_empty());
    }
}
