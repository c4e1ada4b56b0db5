//! The durable consumer of a subscriber, as Tidings configures it. Never deletes one.

mod look;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tidings_contract::Name;

use super::origin;
use crate::{
    executor::ACK_WAIT,
    nats::{
        Bus, BusError,
        protocol::{api, codes, subjects},
        stream::settings::{is_as_wanted, limit_in, put_over, setting_text, unset},
    },
    policy::start::StartFrom,
    replay::tag::ReplayId,
};

pub(crate) use look::ConsumerLook;

/// How many deliveries may be ack pending at once, over all instances; delayed retries count. It limits the memory of
/// the server, not of an instance: each instance requests only as much as it has room for.
const MAX_ACK_PENDING: u64 = 10_000;

/// A durable consumer of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConsumerSpec {
    pub(crate) stream: String,
    pub(crate) durable: String,
    pub(crate) subjects: Vec<String>,
    /// The replay that it belongs to.
    pub(in crate::nats) replay: Option<ReplayId>,
    /// Lower when the server allows less.
    max_ack_pending: u64,
}

/// The state of a consumer.
#[derive(Debug, Clone, Default, Deserialize)]
pub(in crate::nats) struct ConsumerState {
    pub(in crate::nats) config: Limits,
    /// Deliveries that are not acknowledged.
    pub(in crate::nats) num_ack_pending: u64,
    /// Pull requests that wait.
    pub(in crate::nats) num_waiting: u64,
    /// Messages that were never delivered.
    pub(in crate::nats) num_pending: u64,
    #[serde(default)]
    paused: bool,
    #[serde(default)]
    pause_remaining: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(in crate::nats) struct Limits {
    #[serde(default)]
    max_ack_pending: i64,
}

impl ConsumerState {
    /// How long it stays paused, if it is paused.
    pub(in crate::nats) fn paused_for(&self) -> Option<Duration> {
        self.paused
            .then(|| Duration::from_secs(self.pause_remaining / 1_000_000_000))
    }

    /// Whether the server waits for acks before it delivers more.
    pub(in crate::nats) fn is_full(&self) -> bool {
        u64::try_from(self.config.max_ack_pending)
            .is_ok_and(|most| most > 0 && self.num_ack_pending >= most)
    }
}

#[derive(Deserialize)]
struct Info {
    created: String,
    config: Map<String, Value>,
    delivered: Place,
    /// Messages that were never delivered.
    num_pending: u64,
}

#[derive(Deserialize)]
struct Place {
    stream_seq: u64,
}

impl ConsumerSpec {
    pub(crate) fn new(
        stream: impl Into<String>,
        durable: impl Into<String>,
        subjects: Vec<String>,
    ) -> Self {
        Self {
            stream: stream.into(),
            durable: durable.into(),
            subjects,
            replay: None,
            max_ack_pending: MAX_ACK_PENDING,
        }
    }

    /// For the consumer of a replay: an earlier replay of the subscriber may have left one with the same name.
    #[must_use]
    pub(crate) fn of_replay(mut self, replay: ReplayId) -> Self {
        self.replay = Some(replay);
        self
    }

    /// The settings that differ from the wanted ones, when the consumer is checked while an instance works. The limit
    /// of ack pending is left to the next start: it stops nothing, and another version may want another limit.
    pub(crate) fn spoiled(&self, config: &Map<String, Value>) -> Vec<(String, Value, Value)> {
        let mut wanted = self.with_others(config).settings();
        wanted.remove("max_ack_pending");
        drift(config, &wanted)
    }

    /// Adds the other names that the consumer delivers.
    fn with_others(&self, config: &Map<String, Value>) -> Self {
        let mut subjects = filters(config);
        subjects.retain(|subject| self.subjects.contains(subject) || Name::parse(subject).is_ok());
        let missing = self
            .subjects
            .iter()
            .filter(|subject| !subjects.contains(subject));
        let missing: Vec<String> = missing.cloned().collect();
        subjects.extend(missing);
        Self {
            subjects,
            ..self.clone()
        }
    }

    /// Logs the names that the consumer delivers and this build does not handle.
    fn tell_others(&self, config: &Map<String, Value>) {
        let (durable, stream) = (&self.durable, &self.stream);
        let others = self.with_others(config).subjects;
        for name in others.iter().filter(|name| !self.subjects.contains(name)) {
            tracing::warn!(
                subscriber = durable,
                stream,
                name,
                "unhandled name in consumer: its events wait for an instance that handles it; if none ever will, run \
                 `tidings subscribers prune`"
            );
        }
    }

    /// Adopts the limit that the server allows.
    fn obey(&mut self, config: &Map<String, Value>) {
        let allowed = config.get("max_ack_pending").and_then(Value::as_u64);
        self.max_ack_pending = allowed.unwrap_or(MAX_ACK_PENDING).min(MAX_ACK_PENDING);
    }

    /// The settings that Tidings owns, under the names of the JetStream API; `null` for a setting that must not be set.
    pub(crate) fn settings(&self) -> Map<String, Value> {
        let settings = json!({
            "durable_name": self.durable,
            "name": self.durable,
            "ack_policy": "explicit",
            "ack_wait": u64::try_from(ACK_WAIT.as_nanos()).unwrap_or(u64::MAX),
            "max_ack_pending": self.max_ack_pending,
            "max_deliver": -1,
        });
        let mut settings = match settings {
            Value::Object(settings) => settings,
            _ => Map::new(),
        };
        settings.extend(unset());
        match &*self.subjects {
            [one] => drop(settings.insert("filter_subject".into(), json!(one))),
            many => drop(settings.insert("filter_subjects".into(), json!(many))),
        }
        settings
    }
}

/// The filter subjects of a consumer; empty when it delivers everything.
pub(crate) fn filters(config: &Map<String, Value>) -> Vec<String> {
    let one = config.get("filter_subject").into_iter();
    let many = config.get("filter_subjects").and_then(Value::as_array);
    let all = one.chain(many.into_iter().flatten());
    let all = all
        .filter_map(Value::as_str)
        .filter(|text| !text.is_empty());
    all.map(str::to_owned).collect()
}

/// The settings that differ: name, present value, wanted value.
pub(crate) fn drift(
    config: &Map<String, Value>,
    wanted: &Map<String, Value>,
) -> Vec<(String, Value, Value)> {
    let differs = wanted.iter().filter_map(|(name, wanted)| {
        let now = config.get(name);
        let shown = || now.cloned().unwrap_or(Value::Null);
        (!is_as_wanted(now, wanted)).then(|| (name.clone(), shown(), wanted.clone()))
    });
    differs.collect()
}

impl Bus {
    /// Recreates a missing consumer at a sequence; an existing one stays as it is, because a newer instance may have
    /// changed it.
    pub(crate) async fn restore_consumer(
        &self,
        spec: &ConsumerSpec,
        at: StartFrom,
    ) -> Result<(), BusError> {
        if let Some(config) = self.consumer_config(spec).await?
            && !self.make_room(spec, &config).await?
        {
            return Ok(());
        }
        match self.create_consumer(spec, at).await {
            Err(BusError::Refused {
                code: codes::CONSUMER_MUST_DELIVER_ALL,
                ..
            }) => self
                .create_consumer(spec, StartFrom::Beginning)
                .await
                .map(drop),
            created => created.map(drop),
        }
    }

    /// The ack floor, and the server time of the answer: everything up to the floor was stored before that time.
    pub(crate) async fn ack_floor_now(
        &self,
        spec: &ConsumerSpec,
    ) -> Result<(u64, Option<DateTime<Utc>>), BusError> {
        #[derive(Deserialize)]
        struct Answer {
            ack_floor: Place,
            #[serde(default)]
            ts: Option<DateTime<Utc>>,
        }
        let subject = api::consumer_info(&spec.stream, &spec.durable);
        let Answer { ack_floor, ts } = self.api(&subject, &json!({})).await?;
        Ok((ack_floor.stream_seq, ts))
    }

    /// Creates a consumer. If its subscriber is paused, the consumer starts paused.
    async fn create_consumer(&self, spec: &ConsumerSpec, at: StartFrom) -> Result<Info, BusError> {
        let mut begins = self.within_stream(spec, at).await?.settings();
        let until = match spec.replay {
            None => self.pause_of(&spec.durable).await?,
            Some(_) => None,
        };
        begins.extend(until.map(|until| ("pause_until".to_owned(), until)));
        let made = self.put_consumer(spec, begins, "create").await?;
        tracing::info!(
            stream = spec.stream,
            durable = spec.durable,
            start = made.delivered.stream_seq.saturating_add(1),
            events = made.num_pending,
            "consumer created"
        );
        Ok(made)
    }

    /// Limits a start to the end of the stream: beyond it, the server would deliver nothing until that sequence exists.
    /// "New" becomes a sequence as well, because a consumer that starts with new messages cannot be reset to an event.
    /// A time becomes a sequence, because with several names nats-server 2.15.1 starts after it.
    async fn within_stream(
        &self,
        spec: &ConsumerSpec,
        at: StartFrom,
    ) -> Result<StartFrom, BusError> {
        match at {
            StartFrom::Beginning | StartFrom::Sequence(0 | 1) => return Ok(at),
            StartFrom::Time(time) => {
                let sequence = self.sequence_at(&spec.stream, time).await?;
                return Ok(StartFrom::Sequence(sequence));
            }
            StartFrom::Sequence(_) | StartFrom::New => {}
        }
        let Some(info) = self.stream_info(&spec.stream).await? else {
            return Ok(at);
        };
        let end = info.state.last_seq.saturating_add(1);
        match at {
            StartFrom::Sequence(sequence) if sequence <= end => return Ok(at),
            StartFrom::Sequence(sequence) => tracing::warn!(
                stream = spec.stream,
                durable = spec.durable,
                sequence,
                end,
                "start sequence beyond stream: the consumer starts at the end of the stream"
            ),
            _ => {}
        }
        Ok(StartFrom::Sequence(end))
    }

    /// Until when a subscriber is paused, by the consumer of its retries, which every subscriber has.
    async fn pause_of(&self, durable: &str) -> Result<Option<Value>, BusError> {
        let retries = subjects::retry(durable, ">");
        let Some(stream) = self.stream_of(&retries).await? else {
            return Ok(None);
        };
        let spec = ConsumerSpec::new(stream, durable, vec![retries]);
        let config = self.consumer_config(&spec).await?;
        Ok(config.and_then(|mut config| config.remove("pause_until")))
    }

    /// Creates the consumer at a start position, or updates settings that differ and logs that. The position of an
    /// existing consumer is never changed, and it never stops delivering a name: messages stored meanwhile would be
    /// skipped, and a newer instance may want them. Settings that the server does not allow to be changed are reported
    /// while the subscriber works.
    pub(crate) async fn apply_consumer(
        &self,
        spec: &mut ConsumerSpec,
        at: StartFrom,
    ) -> Result<(), BusError> {
        let config = match self.consumer_config(spec).await? {
            Some(config) => config,
            None => match self.create_consumer(spec, at).await {
                // Another instance was faster, and the stream has grown in between.
                Err(error) if error.has_code(codes::CONSUMER_EXISTS) => {
                    self.consumer_config(spec).await?.ok_or(error)?
                }
                Ok(made) => {
                    spec.obey(&made.config);
                    return Ok(());
                }
                Err(error) => return Err(error),
            },
        };
        spec.tell_others(&config);
        match self.set_back(spec, config).await {
            Ok(Some(updated)) => spec.obey(&updated),
            Ok(None) => {}
            Err(error @ (BusError::Refused { .. } | BusError::Denied { .. })) => {
                let (stream, durable) = (&spec.stream, &spec.durable);
                tracing::error!(stream, durable, %error, "consumer update failed: the consumer stays unchanged");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Restores the settings that differ, and logs that. Returns the configuration if it was written.
    pub(crate) async fn set_back(
        &self,
        spec: &ConsumerSpec,
        config: Map<String, Value>,
    ) -> Result<Option<Map<String, Value>>, BusError> {
        let spec = &spec.with_others(&config);
        let differs = drift(&config, &spec.settings());
        if differs.is_empty() {
            return Ok(None);
        }
        let (stream, durable) = (&spec.stream, &spec.durable);
        for (setting, now, wanted) in differs {
            let (now, wanted) = (
                setting_text(&setting, &now),
                setting_text(&setting, &wanted),
            );
            tracing::warn!(stream, durable, setting, now, wanted, "consumer updated");
        }
        let updated = self.put_consumer(spec, config, "update").await?;
        Ok(Some(updated.config))
    }

    /// The state of a consumer, if the server reports it within the time.
    pub(in crate::nats) async fn look_at_consumer(
        &self,
        stream: &str,
        consumer: &str,
        patience: Duration,
    ) -> Result<ConsumerState, BusError> {
        let subject = api::consumer_info(stream, consumer);
        self.api_within(patience, &subject, &json!({})).await
    }

    /// The last sequence of the stream that the consumer has delivered.
    pub(crate) async fn delivered_up_to(&self, spec: &ConsumerSpec) -> Result<u64, BusError> {
        #[derive(Deserialize)]
        struct Delivered {
            delivered: Place,
        }
        let subject = api::consumer_info(&spec.stream, &spec.durable);
        let Delivered { delivered } = self.api(&subject, &json!({})).await?;
        Ok(delivered.stream_seq)
    }

    /// Resets the consumer to a sequence, or back to its ack floor: messages that were delivered from there on are
    /// redelivered, in order, as if for the first time, whether they were acknowledged or not. Returns the next
    /// sequence of the stream.
    pub(crate) async fn reset_consumer(
        &self,
        spec: &ConsumerSpec,
        to: Option<u64>,
    ) -> Result<u64, BusError> {
        #[derive(Deserialize)]
        struct Reset {
            reset_seq: u64,
        }
        let (stream, durable) = (&spec.stream, &spec.durable);
        let subject = api::consumer_reset(stream, durable);
        // An older server does not answer at all.
        if !self.is_at_least([2, 14, 0]) {
            return Err(BusError::TooOld {
                subject,
                needs: "2.14",
                version: self.server_version(),
            });
        }
        let request = to.map_or_else(|| json!({}), |to| json!({ "seq": to }));
        let Reset { reset_seq } = self.api(&subject, &request).await?;
        tracing::info!(stream, durable, reset_seq, "consumer reset");
        Ok(reset_seq)
    }

    /// When the consumer was created, as the server writes it; `None` when there is none.
    pub(crate) async fn consumer_created(
        &self,
        spec: &ConsumerSpec,
    ) -> Result<Option<String>, BusError> {
        Ok(self.consumer_info(spec).await?.map(|info| info.created))
    }

    pub(in crate::nats) async fn consumer_config(
        &self,
        spec: &ConsumerSpec,
    ) -> Result<Option<Map<String, Value>>, BusError> {
        Ok(self.consumer_info(spec).await?.map(|info| info.config))
    }

    async fn consumer_info(&self, spec: &ConsumerSpec) -> Result<Option<Info>, BusError> {
        let subject = api::consumer_info(&spec.stream, &spec.durable);
        match self.api(&subject, &json!({})).await {
            Ok(info) => Ok(Some(info)),
            Err(BusError::Refused {
                code: codes::CONSUMER_NOT_FOUND,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a consumer deliver only these subjects.
    pub(crate) async fn prune_consumer(&self, spec: &ConsumerSpec) -> Result<(), BusError> {
        match self.consumer_config(spec).await? {
            Some(config) => self.put_consumer(spec, config, "update").await.map(drop),
            None => Ok(()),
        }
    }

    /// Writes the settings that Tidings owns over a configuration. If the server's limit of ack pending is lower, that
    /// limit is used.
    async fn put_consumer(
        &self,
        spec: &ConsumerSpec,
        mut config: Map<String, Value>,
        action: &str,
    ) -> Result<Info, BusError> {
        let (stream, durable) = (&spec.stream, &spec.durable);
        config.remove("filter_subject");
        config.remove("filter_subjects");
        put_over(&mut config, spec.settings());
        origin::mark(&mut config, spec);
        let subject = match &*spec.subjects {
            [one] => api::consumer_create_filtered(stream, durable, one),
            _ => api::consumer_create(stream, durable),
        };
        let mut request = json!({ "stream_name": stream, "config": config, "action": action });
        let info: Info = match self.api(&subject, &request).await {
            Err(BusError::Refused {
                code: codes::MAX_ACK_PENDING_EXCEEDED,
                description,
                ..
            }) => {
                // Without a number in the error the server's default is used, which is within its limit.
                let limit = limit_in(&description);
                request["config"]["max_ack_pending"] = json!(limit.unwrap_or(0));
                let info: Info = self.api(&subject, &request).await?;
                let allowed = info.config.get("max_ack_pending").unwrap_or(&Value::Null);
                tracing::warn!(
                    stream, durable, %allowed, wanted = spec.max_ack_pending,
                    "max_ack_pending limited: the server, the account or the stream allows less than requested; all \
                     instances together handle no more at once"
                );
                info
            }
            answered => answered?,
        };
        tracing::info!(stream, durable, action, "consumer configured");
        Ok(info)
    }
}
