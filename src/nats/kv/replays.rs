//! What replays store in NATS: their entries in the bucket of the workers, and their consumers. Never decides what
//! becomes of a replay.
//!
//! Entries are requested from the stream's leader: a replica that lags would return a completed replay as running.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::state::read_entry;
use crate::{
    nats::{
        Bus, BusError, ConsumerSpec, Holds, StartFrom, StoredMessage,
        consume::origin,
        protocol::{api, codes, keys, names},
        stream::streams::StreamSpec,
    },
    replay::{Replay, ReplayProgress, ReplayRange, tag::ReplayId},
};

/// The part of a stream's state that a replay needs.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// When it was created, as the server writes it.
    pub(crate) incarnation: String,
    /// The oldest and the newest message; in an empty stream, the next sequence and the last one.
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// The state of a replay's consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReplayConsumerState {
    /// Messages that were never delivered.
    pub(crate) pending: u64,
    /// Deliveries that are not acknowledged.
    pub(crate) in_flight: u64,
    /// All messages up to this sequence are acknowledged.
    pub(crate) floor: u64,
    /// All messages up to this sequence were delivered.
    pub(crate) delivered: u64,
}

/// An entry of the bucket, with its revision.
#[derive(Debug)]
pub(crate) struct Written<T> {
    pub(crate) revision: u64,
    pub(crate) value: T,
}

/// How long a completed replay is remembered.
const KEPT: Duration = Duration::from_secs(90 * 86_400);

impl Bus {
    /// The next replay after a revision, of one subscriber or of all.
    pub(crate) async fn next_replay(
        &self,
        subscriber: Option<&str>,
        after: u64,
    ) -> Result<Option<Written<Holds<Replay>>>, BusError> {
        let subjects = keys::subject(&keys::replay(subscriber.unwrap_or("*"), &"*"));
        let wanted = json!({ "seq": after.saturating_add(1), "next_by_subj": subjects });
        Ok(self.entry_at(&wanted).await?.map(|kept| written(&kept)))
    }

    /// A replay, with its revision.
    pub(crate) async fn replay(&self, id: ReplayId) -> Result<Option<Written<Replay>>, BusError> {
        let subjects = keys::subject(&keys::replay("*", &id));
        let wanted = json!({ "last_by_subj": subjects });
        let Some(last) = self.entry_at(&wanted).await? else {
            return Ok(None);
        };
        let (mut found, mut after) = (written(&last), 0_u64);
        // A bad entry under the id of the replay must not hide the real one.
        while let Holds::Bad(_) = found.value {
            let wanted = json!({ "seq": after.saturating_add(1), "next_by_subj": subjects });
            match self.entry_at(&wanted).await? {
                Some(kept) if kept.sequence < last.sequence => {
                    after = kept.sequence;
                    found = written(&kept);
                }
                _ => break,
            }
        }
        let Written { revision, value } = found;
        let value = value.value();
        Ok(value.map(|value| Written { revision, value }))
    }

    /// The progress of a replay, with the revision of its entry.
    pub(crate) async fn replay_progress(
        &self,
        replay: &Replay,
    ) -> Result<Option<Written<ReplayProgress>>, BusError> {
        let entry = keys::subject(&keys::replay_progress(&replay.subscriber, &replay.id));
        let kept = self.entry_at(&json!({ "last_by_subj": entry })).await?;
        Ok(kept.map(|kept| Written {
            revision: kept.sequence,
            // Of an unreadable entry only the revision is known: the range starts again.
            value: read_entry(&kept, |_| None).value().unwrap_or_default(),
        }))
    }

    /// Writes a replay over the revision that was seen, 0 for none, and returns the new one; `None` when another client
    /// has written since.
    pub(crate) async fn write_replay(
        &self,
        replay: &Replay,
        seen: u64,
    ) -> Result<Option<u64>, BusError> {
        let key = keys::replay(&replay.subscriber, &replay.id);
        let time = replay.state.is_final().then_some(KEPT);
        self.write_state_for(time, &key, bytes_of(replay), seen)
            .await
    }

    /// Writes a new replay; `false` when another entry of a replay of its subscriber was written after this revision.
    pub(crate) async fn begin_replay(&self, replay: &Replay, seen: u64) -> Result<bool, BusError> {
        let key = keys::replay(&replay.subscriber, &replay.id);
        let all = keys::replay(&replay.subscriber, &"*");
        let begun = self.write_state_behind(&key, bytes_of(replay), (&all, seen));
        Ok(begun.await?.is_some())
    }

    /// Writes the progress of a replay, like [`Bus::write_replay`].
    pub(crate) async fn write_replay_progress(
        &self,
        replay: &Replay,
        progress: &ReplayProgress,
        seen: u64,
    ) -> Result<Option<u64>, BusError> {
        let key = keys::replay_progress(&replay.subscriber, &replay.id);
        self.write_state_for(Some(KEPT), &key, bytes_of(progress), seen)
            .await
    }

    async fn entry_at(&self, wanted: &Value) -> Result<Option<StoredMessage>, BusError> {
        match self.single(names::BUCKET_STREAM, wanted).await {
            // There was no replay yet.
            Err(BusError::Refused {
                code: codes::STREAM_NOT_FOUND,
                ..
            }) => Ok(None),
            kept => kept,
        }
    }

    /// The state of a stream for a replay; `None` when there is no such stream.
    pub(crate) async fn part(&self, stream: &str) -> Result<Option<Part>, BusError> {
        Ok(self.stream_info(stream).await?.map(|info| Part {
            incarnation: info.created,
            first: info.state.first_seq,
            last: info.state.last_seq,
        }))
    }

    /// The first sequence that was stored at or after a time; the next sequence of the stream when there is none.
    pub(crate) async fn sequence_at(
        &self,
        stream: &str,
        time: DateTime<Utc>,
    ) -> Result<u64, BusError> {
        // Requested before the search, which then finds what is stored in between.
        let end = self.stream_info(stream).await?;
        let end = end.map_or(0, |info| info.state.last_seq);
        let time = time.to_rfc3339_opts(SecondsFormat::Nanos, true);
        // A consumer would not do: it needs a permission for each possible name, and a work queue accepts no second
        // one.
        let wanted = json!({ "start_time": time, "next_by_subj": ">" });
        let found = self.raw(stream, &wanted).await?;
        Ok(found.map_or(end.saturating_add(1), |message| message.sequence))
    }

    /// The number of messages with these subjects from a sequence on, by a consumer with this name, which is deleted
    /// afterwards.
    pub(crate) async fn count_from(
        &self,
        stream: &str,
        subjects: &[String],
        sequence: u64,
        name: &str,
    ) -> Result<u64, BusError> {
        #[derive(Deserialize)]
        struct Created {
            num_pending: u64,
        }
        let mut config = StartFrom::Sequence(sequence).settings();
        config.extend(settings(json!({
            "name": name,
            "ack_policy": "none",
            "max_deliver": 1,
            "mem_storage": true,
            "num_replicas": 1,
            "inactive_threshold": 5_000_000_000_u64,
            "filter_subjects": subjects,
        })));
        let subject = api::consumer_create(stream, name);
        let created: Created = self
            .create_ephemeral(&subject, stream, Value::Object(config))
            .await?;
        match self.delete_consumer(stream, name).await {
            // The next count with this name would conflict with it.
            Err(error @ BusError::Denied { .. }) => return Err(error),
            // The server deletes it by itself in a few seconds.
            Err(error) => {
                tracing::debug!(stream, %error, "counting consumer not deleted: it expires by itself")
            }
            Ok(()) => {}
        }
        Ok(created.num_pending)
    }

    /// The state of a replay's consumer; `None` when the consumer or its stream does not exist.
    pub(crate) async fn consumer_state_of(
        &self,
        stream: &str,
        replay: &Replay,
    ) -> Result<Option<ReplayConsumerState>, BusError> {
        #[derive(Deserialize)]
        struct Floor {
            stream_seq: u64,
        }
        #[derive(Deserialize)]
        struct Info {
            config: Map<String, Value>,
            num_pending: u64,
            num_ack_pending: u64,
            ack_floor: Floor,
            delivered: Floor,
        }
        let consumer = replay.consumer();
        let subject = api::consumer_info(stream, &consumer);
        match self.api::<Info>(&subject, &json!({})).await {
            Ok(info) if origin::replay(&info.config) != Some(replay.id) => Ok(None),
            Ok(info) => Ok(Some(ReplayConsumerState {
                pending: info.num_pending,
                in_flight: info.num_ack_pending,
                floor: info.ack_floor.stream_seq,
                delivered: info.delivered.stream_seq,
            })),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes the consumers of a replay, but none that belongs to another replay by now.
    pub(crate) async fn delete_consumers_of(&self, replay: &Replay) -> Result<(), BusError> {
        let consumer = replay.consumer();
        for ReplayRange { stream, .. } in &replay.ranges {
            if self.consumer_state_of(stream, replay).await?.is_some() {
                self.delete_consumer(stream, &consumer).await?;
            }
        }
        Ok(())
    }

    /// Deletes a consumer that a completed replay has left under the name that a new replay needs. False when the
    /// existing consumer stays.
    pub(in crate::nats) async fn make_room(
        &self,
        spec: &ConsumerSpec,
        config: &Map<String, Value>,
    ) -> Result<bool, BusError> {
        let (stream, durable) = (&spec.stream, &spec.durable);
        let in_the_way = |whose: String| BusError::Settings {
            issue: format!(
                "{whose} has the consumer {durable} of {stream}, which this replay needs"
            ),
        };
        let of = origin::replay(config);
        if spec.replay.is_none() || spec.replay == of {
            return Ok(false);
        }
        let Some(other) = of else {
            let whose = "another application, or a subscriber of this name,".to_owned();
            return Err(in_the_way(whose));
        };
        if let Some(Written { value, .. }) = self.replay(other).await?
            && !value.state.is_final()
        {
            return Err(in_the_way(format!(
                "the replay {other}, which has not ended,"
            )));
        }
        self.delete_consumer(stream, durable).await?;
        Ok(true)
    }

    /// Deletes a consumer; a missing one counts as deleted.
    pub(crate) async fn delete_consumer(
        &self,
        stream: &str,
        consumer: &str,
    ) -> Result<(), BusError> {
        let subject = api::consumer_delete(stream, consumer);
        match self.api::<Map<String, Value>>(&subject, &json!({})).await {
            Err(error) if error.is_gone() => Ok(()),
            deleted => deleted.map(drop),
        }
    }
}

/// Checks that a replay has the subscriber and the id of its entry's key, and that its streams have valid names.
pub(in crate::nats) fn written(kept: &StoredMessage) -> Written<Holds<Replay>> {
    let misfit = |replay: &Replay| {
        let entry = keys::subject(&keys::replay(&replay.subscriber, &replay.id));
        if entry != kept.subject {
            return Some("it is named after another replay".to_owned());
        }
        let mut streams = replay.ranges.iter().map(|range| &range.stream);
        let nameless = streams.find(|stream| StreamSpec::new(stream.as_str(), []).is_err());
        nameless.map(|stream| format!("{stream:?} is not a stream name"))
    };
    Written {
        revision: kept.sequence,
        value: read_entry(kept, misfit),
    }
}

fn bytes_of(value: &impl Serialize) -> Bytes {
    // Texts, numbers and times always serialise.
    serde_json::to_vec(value).unwrap_or_default().into()
}

fn settings(settings: Value) -> Map<String, Value> {
    match settings {
        Value::Object(settings) => settings,
        _ => Map::new(),
    }
}
