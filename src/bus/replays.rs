//! What replays have in NATS: their entries in the bucket of the workers, and their consumers. Never decides what
//! becomes of a replay.
//!
//! Entries are asked of the stream's leader: a copy that lags would show a replay that is over.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tidings_contract::EventId;

use super::{
    Bus, BusError, Holds, Kept, Start,
    state::{self, read_entry},
    streams::StreamSpec,
};
use crate::{
    job::{self, Replay, ReplayProgress},
    replaying::ReplayId,
};

/// A stream, as far as it concerns a replay.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// When it was created, in the server's words.
    pub(crate) incarnation: String,
    /// The oldest and the newest message; of an empty stream, the one to come and the last there was.
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// What the server says of the consumer of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Messages that were never delivered.
    pub(crate) pending: u64,
    /// Deliveries that are not answered.
    pub(crate) in_hand: u64,
    /// Everything up to this sequence is acknowledged.
    pub(crate) floor: u64,
    /// Everything up to this sequence was delivered.
    pub(crate) delivered: u64,
}

/// An entry of the bucket, and what is behind it.
#[derive(Debug)]
pub(crate) struct Written<T> {
    pub(crate) revision: u64,
    pub(crate) value: T,
}

const NO_SUCH_STREAM: u64 = 10059;
const NO_SUCH_CONSUMER: u64 = 10014;

#[derive(Deserialize)]
struct Created {
    num_pending: u64,
    delivered: Delivered,
}

#[derive(Deserialize)]
struct Delivered {
    stream_seq: u64,
}

/// How long a replay that is over is remembered.
const KEPT: Duration = Duration::from_secs(90 * 86_400);

impl Bus {
    /// The next replay behind a revision, of one subscriber or of all.
    pub(crate) async fn next_replay(
        &self,
        subscriber: Option<&str>,
        after: u64,
    ) -> Result<Option<Written<Holds<Replay>>>, BusError> {
        let subjects = subject(&job::entry(subscriber.unwrap_or("*"), "*"));
        let wanted = json!({ "seq": after.saturating_add(1), "next_by_subj": subjects });
        Ok(self.entry_at(&wanted).await?.map(|kept| written(&kept)))
    }

    /// A replay, and its revision.
    pub(crate) async fn replay(&self, id: ReplayId) -> Result<Option<Written<Replay>>, BusError> {
        let subjects = subject(&job::entry("*", &id.to_string()));
        let wanted = json!({ "last_by_subj": subjects });
        let Some(last) = self.entry_at(&wanted).await? else {
            return Ok(None);
        };
        let (mut found, mut after) = (written(&last), 0_u64);
        // An entry that only looks as if it were the replay's must not hide it.
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

    /// How far a replay has come, and the revision that says so.
    pub(crate) async fn replay_progress(
        &self,
        replay: &Replay,
    ) -> Result<Option<Written<ReplayProgress>>, BusError> {
        let entry = subject(&job::progress_entry(&replay.subscriber, replay.id));
        let kept = self.entry_at(&json!({ "last_by_subj": entry })).await?;
        Ok(kept.map(|kept| Written {
            revision: kept.sequence,
            // Of one that cannot be read only the revision is known: the range begins anew.
            value: read_entry(&kept, |_| None).value().unwrap_or_default(),
        }))
    }

    /// Writes a replay over the revision that was seen, 0 for none, and gives the new one; `None` when somebody
    /// has written since.
    pub(crate) async fn write_replay(
        &self,
        replay: &Replay,
        seen: u64,
    ) -> Result<Option<u64>, BusError> {
        let key = job::entry(&replay.subscriber, &replay.id.to_string());
        let time = replay.state.is_final().then_some(KEPT);
        self.write_state_for(time, &key, bytes_of(replay), seen)
            .await
    }

    /// Writes a new replay, unless something of a replay of its subscriber was written behind this revision: `false`.
    pub(crate) async fn begin_replay(&self, replay: &Replay, seen: u64) -> Result<bool, BusError> {
        let key = job::entry(&replay.subscriber, &replay.id.to_string());
        let all = job::entry(&replay.subscriber, "*");
        let begun = self.write_state_behind(&key, bytes_of(replay), (&all, seen));
        Ok(begun.await?.is_some())
    }

    /// Writes how far it has come, as [`Bus::write_replay`].
    pub(crate) async fn write_replay_progress(
        &self,
        replay: &Replay,
        progress: &ReplayProgress,
        seen: u64,
    ) -> Result<Option<u64>, BusError> {
        let key = job::progress_entry(&replay.subscriber, replay.id);
        self.write_state_for(Some(KEPT), &key, bytes_of(progress), seen)
            .await
    }

    async fn entry_at(&self, wanted: &Value) -> Result<Option<Kept>, BusError> {
        match self.single(&state::bucket_stream(), wanted).await {
            // Nobody has replayed anything yet.
            Err(BusError::Api {
                code: NO_SUCH_STREAM,
                ..
            }) => Ok(None),
            kept => kept,
        }
    }

    /// A stream that may be replayed; `None` when there is no such stream.
    pub(crate) async fn part(&self, stream: &str) -> Result<Option<Part>, BusError> {
        Ok(self.stream_info(stream).await?.map(|info| Part {
            incarnation: info.created,
            first: info.state.first_seq,
            last: info.state.last_seq,
        }))
    }

    /// The first sequence that was stored at or after a time; the one to come when none was.
    pub(crate) async fn sequence_at(
        &self,
        stream: &str,
        time: DateTime<Utc>,
    ) -> Result<u64, BusError> {
        // With several filters nats-server 2.15.1 begins behind where it should.
        let created = self.look_from(stream, &[], Start::Time(time)).await?;
        Ok(created.delivered.stream_seq.saturating_add(1))
    }

    /// How many messages of these subjects there are from a sequence on.
    pub(crate) async fn count_from(
        &self,
        stream: &str,
        subjects: &[String],
        sequence: u64,
    ) -> Result<u64, BusError> {
        let start = Start::Sequence(sequence);
        Ok(self.look_from(stream, subjects, start).await?.num_pending)
    }

    /// What the server says of a consumer that begins there.
    async fn look_from(
        &self,
        stream: &str,
        subjects: &[String],
        start: Start,
    ) -> Result<Created, BusError> {
        let name = EventId::now().as_uuid().simple().to_string();
        let mut config = start.settings();
        config.extend(settings(json!({
            "name": name,
            "ack_policy": "none",
            "max_deliver": 1,
            "mem_storage": true,
            "num_replicas": 1,
            "inactive_threshold": 5_000_000_000_u64,
            "filter_subjects": subjects,
        })));
        let subject = format!("$JS.API.CONSUMER.CREATE.{stream}.{name}");
        let created: Created = self
            .create_ephemeral(&subject, stream, Value::Object(config))
            .await?;
        // It goes by itself in a few seconds.
        if let Err(error) = self.delete_consumer(stream, &name).await {
            tracing::debug!(stream, %error, "a consumer that only counted is not deleted");
        }
        Ok(created)
    }

    /// How a consumer stands; `None` when it, or its stream, is not there.
    pub(crate) async fn standing(
        &self,
        stream: &str,
        consumer: &str,
    ) -> Result<Option<Standing>, BusError> {
        #[derive(Deserialize)]
        struct Floor {
            stream_seq: u64,
        }
        #[derive(Deserialize)]
        struct Info {
            num_pending: u64,
            num_ack_pending: u64,
            ack_floor: Floor,
            delivered: Floor,
        }
        let subject = format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}");
        match self.api::<Info>(&subject, &json!({})).await {
            Ok(info) => Ok(Some(Standing {
                pending: info.num_pending,
                in_hand: info.num_ack_pending,
                floor: info.ack_floor.stream_seq,
                delivered: info.delivered.stream_seq,
            })),
            Err(BusError::Api { code, .. }) if is_gone(code) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes a consumer; one that is not there is deleted already.
    pub(crate) async fn delete_consumer(
        &self,
        stream: &str,
        consumer: &str,
    ) -> Result<(), BusError> {
        let subject = format!("$JS.API.CONSUMER.DELETE.{stream}.{consumer}");
        match self.api::<Map<String, Value>>(&subject, &json!({})).await {
            Err(BusError::Api { code, .. }) if is_gone(code) => Ok(()),
            deleted => deleted.map(drop),
        }
    }
}

/// A replay is of the subscriber and has the id that its entry is named after, and its streams can be asked for.
pub(super) fn written(kept: &Kept) -> Written<Holds<Replay>> {
    let misfit = |replay: &Replay| {
        let entry = subject(&job::entry(&replay.subscriber, &replay.id.to_string()));
        if entry != kept.subject {
            return Some("it is named after another replay".to_owned());
        }
        let mut streams = replay.ranges.iter().map(|range| &range.stream);
        let nameless = streams.find(|stream| StreamSpec::new(stream.as_str(), []).is_err());
        nameless.map(|stream| format!("{stream:?} is no name of a stream"))
    };
    Written {
        revision: kept.sequence,
        value: read_entry(kept, misfit),
    }
}

fn subject(key: &str) -> String {
    format!("$KV.{}.{key}", state::BUCKET)
}

fn bytes_of(value: &impl Serialize) -> Bytes {
    // Texts, numbers and times always serialise.
    serde_json::to_vec(value).unwrap_or_default().into()
}

fn is_gone(code: u64) -> bool {
    [NO_SUCH_CONSUMER, NO_SUCH_STREAM].contains(&code)
}

fn settings(settings: Value) -> Map<String, Value> {
    match settings {
        Value::Object(settings) => settings,
        _ => Map::new(),
    }
}
