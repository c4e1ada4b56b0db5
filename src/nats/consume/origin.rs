//! Distinguishes a consumer that a worker of Tidings has created from one of another application, by a tag in its
//! metadata. The consumer of the retries, which every subscriber has, also lists the streams with its other consumers,
//! so that one that is deleted while no worker runs is noticed. Never changes how anything is delivered.

use serde_json::{Map, Value, json};

use crate::{
    nats::{
        Bus, BusError, ConsumerSpec,
        protocol::{
            api,
            names::metadata::{KIND, REPLAY, STREAMS, SUBSCRIBER},
            subjects,
        },
    },
    replay::tag::ReplayId,
};

const METADATA: &str = "metadata";
const DESCRIPTION: &str = "description";

/// Tags a configuration as that of a subscriber; other metadata stays. Tools that export the metadata of consumers
/// tell by it which subscriber a consumer belongs to, and what it delivers.
pub(in crate::nats) fn mark(config: &mut Map<String, Value>, spec: &ConsumerSpec) {
    set(config, SUBSCRIBER, &spec.durable);
    let (kind, description) = kind(spec);
    set(config, KIND, kind);
    // One that an operator has written stays.
    let is_free = config.get(DESCRIPTION).is_none_or(|text| text == "");
    if is_free {
        config.insert(DESCRIPTION.to_owned(), json!(description));
    }
    if let Some(replay) = spec.replay {
        mark_replay(config, replay);
    }
}

/// What a consumer delivers: a word for metadata, and a description.
fn kind(spec: &ConsumerSpec) -> (&'static str, String) {
    let durable = &spec.durable;
    if spec.replay.is_some() {
        return ("replay", format!("Tidings: {durable}"));
    }
    match &*spec.subjects {
        [one] if *one == subjects::retry(durable, ">") => {
            ("retries", format!("Tidings: retries of {durable}"))
        }
        _ => ("live", format!("Tidings: events of {durable}")),
    }
}

pub(in crate::nats) fn is_marked(config: &Map<String, Value>) -> bool {
    text(config, SUBSCRIBER).is_some()
}

/// Tags the consumer of a replay.
fn mark_replay(config: &mut Map<String, Value>, replay: ReplayId) {
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
            let is_described = text(&config, KIND).is_some();
            if is_marked(&config) && is_described && is_known {
                continue;
            }
            mark(&mut config, spec);
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
        let spec = ConsumerSpec::new("EVENTS", "welcome-email", vec!["user.created".into()]);
        mark(&mut config, &spec);
        set(&mut config, STREAMS, "EVENTS,USERS");
        assert!(is_marked(&config));
        assert_eq!(config["metadata"]["owner"], "team-a");
        assert_eq!(replay(&config), None);
        let id = ReplayId::new();
        mark_replay(&mut config, id);
        assert_eq!(replay(&config), Some(id));
        assert_eq!(streams(&config), ["EVENTS", "USERS"]);
        assert_eq!(config["metadata"]["tidings.kind"], "live");
        assert_eq!(config["description"], "Tidings: events of welcome-email");
        let mut broken = Map::from_iter([("metadata".to_owned(), json!(7))]);
        mark(&mut broken, &spec);
        assert!(is_marked(&broken) && streams(&broken).is_empty());
    }

    #[test]
    fn a_consumer_is_described_by_what_it_delivers() {
        let described = |spec: &ConsumerSpec, description: &str| {
            let mut config = Map::from_iter([("description".to_owned(), json!(description))]);
            mark(&mut config, spec);
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (
                text(&config["metadata"][KIND]),
                text(&config["description"]),
            )
        };
        let retries = vec![subjects::retry("mailer", ">")];
        let retries = ConsumerSpec::new("RETRIES", "mailer", retries);
        let (kind, description) = described(&retries, "");
        assert_eq!(
            (&*kind, &*description),
            ("retries", "Tidings: retries of mailer")
        );
        let replay = ConsumerSpec::new("EVENTS", "replay-mailer", vec!["a.b".into()]);
        let replay = replay.of_replay(ReplayId::new());
        assert_eq!(described(&replay, "").0, "replay");
        assert_eq!(described(&retries, "of team A").1, "of team A");
    }
}
