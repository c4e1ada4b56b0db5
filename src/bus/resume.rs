//! What a relay asks of NATS besides writing: where a stream ends, which events it holds behind a place,
//! and hints that there is something to do. Never writes to a stream.

use std::{collections::HashMap, sync::Arc, time::Instant};

use async_nats::Message;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{FutureExt, Stream, StreamExt};
use serde_json::json;
use tidings_contract::{EventId, wire};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};

use super::{Bus, BusError, Reader, ReaderError, Removal, Start, settings::transforms};
use crate::log::Lasting;

/// A stream as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamState {
    /// When the stream was created, in the server's words: tells a recreated stream from its predecessor.
    pub(crate) incarnation: String,
    /// The oldest message that is there, or the next one when there is none.
    pub(crate) first_sequence: u64,
    pub(crate) last_sequence: u64,
    /// When this was so, by the server's clock.
    pub(crate) at: Option<DateTime<Utc>>,
    pub(crate) subjects: Vec<String>,
    pub(crate) atomic: bool,
    pub(crate) removal: Removal,
    /// By its own limits it takes no message: full with `discard: new`, or sealed.
    pub(crate) is_closed: bool,
    /// Who publishes into it gets an answer. With `no_ack` nobody does.
    pub(crate) confirms: bool,
    /// It stores what it is given under another subject: a sentence with the cure.
    pub(crate) transforms: Option<String>,
}

/// What lies at a sequence of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// There is no message, or not any more.
    Nothing,
    /// The message has this event's id.
    Event(EventId),
    /// The message has no id: it is nobody's event.
    Nameless,
}

/// The ids that a part of a stream holds, and where. An id may be there more than once, and need not be of one
/// event: whoever finds an id looks at the message.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    firsts: HashMap<EventId, u64>,
    /// Where ids are once more.
    others: HashMap<EventId, Vec<u64>>,
}

impl Found {
    pub(crate) fn is_empty(&self) -> bool {
        self.firsts.is_empty()
    }

    /// How many ids.
    pub(crate) fn len(&self) -> usize {
        self.firsts.len()
    }

    pub(crate) fn has(&self, event: &EventId) -> bool {
        self.firsts.contains_key(event)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = EventId> {
        self.firsts.keys().copied()
    }

    /// Where an id is, the first place first.
    pub(crate) fn sequences(&self, event: &EventId) -> impl Iterator<Item = u64> {
        let others = self.others.get(event).into_iter().flatten();
        self.firsts.get(event).into_iter().chain(others).copied()
    }

    /// The lowest place.
    pub(crate) fn first_sequence(&self) -> Option<u64> {
        self.firsts.values().min().copied()
    }

    /// Adds a place behind those that are known.
    pub(crate) fn add(&mut self, event: EventId, sequence: u64) {
        let first = *self.firsts.entry(event).or_insert(sequence);
        if first != sequence {
            let others = self.others.entry(event).or_default();
            if !others.contains(&sequence) {
                others.push(sequence);
            }
        }
    }

    /// Adds what was found in another part.
    pub(crate) fn extend(&mut self, other: Self) {
        for (event, sequence) in other.firsts {
            self.add(event, sequence);
        }
        for (event, sequences) in other.others {
            for sequence in sequences {
                self.add(event, sequence);
            }
        }
    }
}

impl Bus {
    /// The state of a stream, if it exists.
    pub(crate) async fn stream_state(&self, name: &str) -> Result<Option<StreamState>, BusError> {
        Ok(self.stream_info(name).await?.map(|info| {
            let is_set = |setting: &str| info.config.get(setting) == Some(&json!(true));
            let reached = |limit: &str, now: u64| {
                let limit = info.config.get(limit).and_then(serde_json::Value::as_u64);
                limit.is_some_and(|limit| limit > 0 && now >= limit)
            };
            let is_full =
                reached("max_msgs", info.state.messages) || reached("max_bytes", info.state.bytes);
            let subjects = info
                .config
                .get("subjects")
                .and_then(serde_json::Value::as_array);
            let subjects = subjects
                .into_iter()
                .flatten()
                .filter_map(|subject| subject.as_str());
            let transform = info.config.get("subject_transform");
            StreamState {
                confirms: !is_set("no_ack"),
                transforms: transform.and_then(|value| transforms(name, value)),
                subjects: subjects.map(str::to_owned).collect(),
                first_sequence: info.state.first_seq,
                atomic: is_set("allow_atomic"),
                removal: Removal::of(&info.config),
                is_closed: is_set("sealed")
                    || is_full && info.config.get("discard") == Some(&json!("new")),
                last_sequence: info.state.last_seq,
                at: info.ts,
                incarnation: info.created,
            }
        }))
    }

    /// What lies at a sequence of a stream.
    pub(crate) async fn event_at(&self, stream: &str, sequence: u64) -> Result<At, BusError> {
        let Some(message) = self.kept(stream, sequence).await? else {
            return Ok(At::Nothing);
        };
        let header = |name: &str| {
            let mut headers = message.headers.iter();
            headers.find_map(|(known, value)| (known == name).then_some(&**value))
        };
        Ok(event_of(header).map_or(At::Nameless, At::Event))
    }

    /// The ids of the events of a stream behind one sequence and up to another, as far as they are there.
    pub(crate) async fn ids_between(
        &self,
        stream: &str,
        behind: u64,
        up_to: u64,
    ) -> Result<Found, ReaderError> {
        self.ids_from(stream, Start::Sequence(behind.saturating_add(1)), up_to)
            .await
    }

    /// The same from a place on.
    pub(crate) async fn ids_from(
        &self,
        stream: &str,
        start: Start,
        up_to: u64,
    ) -> Result<Found, ReaderError> {
        let mut reader = Reader::open(self, stream, Vec::new(), start, true).await?;
        let mut found = Found::default();
        while let Some((message, place)) = reader.next_up_to(up_to).await? {
            let headers = message.headers.as_ref();
            let header = |name: &str| Some(headers?.get(name)?.as_str());
            if let Some(event) = event_of(header) {
                found.add(event, place.sequence);
            }
        }
        Ok(found)
    }

    /// Rises each time the connection is lost: whatever was known of a stream may not hold for the next one.
    pub(crate) fn interruptions(&self) -> watch::Receiver<u64> {
        let mut interruptions = self.lost.clone();
        interruptions.mark_unchanged();
        interruptions
    }

    /// Sends a hint to whoever listens, or drops it when the connection is busy. Never waits.
    pub(crate) fn ping(&self, subject: &str) {
        // During an outage hints would only fill the client's queue.
        if !self.is_connected() {
            return;
        }
        let _ = self
            .client
            .publish(subject.to_owned(), Bytes::new())
            .now_or_never();
    }

    /// Waits until everything that was published is on its way to the server.
    pub(crate) async fn sent(&self) {
        // A connection that is gone has nothing to send.
        let _ = self.client.flush().await;
    }

    /// Listens for the hints that [`Bus::ping`] sends.
    pub(crate) async fn pings(&self, subject: &str) -> Result<Pings, BusError> {
        let listening = self.client.listen(subject).await;
        let listened = listening.map_err(|error| BusError::Broken {
            subject: subject.to_owned(),
            reason: error.to_string(),
        })?;
        let heard = Arc::new(Notify::new());
        let mut hearing = JoinSet::new();
        hearing.spawn(hear(listened, Arc::clone(&heard)));
        Ok(Pings {
            heard,
            _hearing: hearing,
        })
    }
}

/// Hints that come from elsewhere. However many have come, they are one: whoever looks sees what all of them are about.
pub(crate) struct Pings {
    heard: Arc<Notify>,
    /// Takes them in at once, so that they do not pile up while nobody waits for one.
    _hearing: JoinSet<()>,
}

impl Pings {
    /// Waits for one; one that came before counts.
    pub(crate) async fn next(&self) {
        self.heard.notified().await;
    }
}

/// How many are taken in before anything else has its turn.
const PINGS: usize = 256;

async fn hear(subscriber: impl Stream<Item = Message> + Unpin, heard: Arc<Notify>) {
    let strange = Lasting::default();
    let mut many = subscriber.ready_chunks(PINGS);
    while let Some(pings) = many.next().await {
        // A hint says nothing; what does is somebody else's.
        let others = pings.iter().filter(|ping| !ping.payload.is_empty());
        if let Some(other) = others.clone().next()
            && let Some(unsaid) = strange.again(Instant::now())
        {
            tracing::warn!(
                subject = %other.subject,
                bytes = other.payload.len(),
                unsaid,
                "foreign message ignored: its subject is reserved for Tidings"
            );
        }
        if others.count() < pings.len() {
            heard.notify_one();
        }
        tokio::task::yield_now().await;
    }
}

/// The event of a message. What was published again has a message id of its own, and the event's id all the same.
fn event_of<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Option<EventId> {
    let id = header(wire::ID).and_then(|id| id.parse().ok());
    id.or_else(|| Some(EventId::of_foreign("message", header(wire::MESSAGE_ID)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_of_an_id_is_known_once() {
        let id = |n: u8| EventId::from(uuid::Uuid::from_bytes([n; 16]));
        let mut found = Found::default();
        for (event, sequence) in [(1, 5), (2, 6), (1, 7), (1, 9)] {
            found.add(id(event), sequence);
        }
        let mut again = Found::default();
        again.add(id(1), 7);
        again.add(id(3), 4);
        found.extend(again);
        let places = |n: u8| found.sequences(&id(n)).collect::<Vec<_>>();
        assert_eq!(
            [places(1), places(2), places(4)],
            [vec![5, 7, 9], vec![6], vec![]]
        );
        assert_eq!((found.len(), found.first_sequence()), (3, Some(4)));
    }
}
