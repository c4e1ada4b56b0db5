//! What a relay needs from NATS apart from writing: the end of a stream, the events after a position, and hints that
//! there is work. Never writes to a stream.

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

use super::settings::transforms;
use crate::{
    log::Lasting,
    nats::{Bus, BusError, Reader, ReaderError, Removal, StartFrom},
};

/// What a stream was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamSnapshot {
    /// When the stream was created, as the server writes it: distinguishes a recreated stream from its predecessor.
    pub(crate) incarnation: String,
    /// The oldest message that exists, or the next one when there is none.
    pub(crate) first_sequence: u64,
    pub(crate) last_sequence: u64,
    /// When this was the state, by the server's clock.
    pub(crate) at: Option<DateTime<Utc>>,
    pub(crate) subjects: Vec<String>,
    pub(crate) atomic: bool,
    pub(crate) removal: Removal,
    /// By its own limits it accepts no message: full with `discard: new`, or sealed.
    pub(crate) is_closed: bool,
    /// Whether publishers get a confirmation. With `no_ack` they do not.
    pub(crate) confirms: bool,
    /// Set when it stores messages under another subject: a sentence with the cure.
    pub(crate) transforms: Option<String>,
}

/// The content at a sequence of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// There is no message, or it was removed.
    Nothing,
    /// The message has this event's id.
    Event(EventId),
    /// The message has no id: it is not an event.
    Nameless,
}

/// The ids in a part of a stream, with their sequences. An id may occur more than once, and need not belong to one
/// event: the caller that finds an id reads the message.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    firsts: HashMap<EventId, u64>,
    /// Further sequences of the same ids.
    others: HashMap<EventId, Vec<u64>>,
}

impl Found {
    pub(crate) fn is_empty(&self) -> bool {
        self.firsts.is_empty()
    }

    /// The number of ids.
    pub(crate) fn len(&self) -> usize {
        self.firsts.len()
    }

    pub(crate) fn has(&self, event: &EventId) -> bool {
        self.firsts.contains_key(event)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = EventId> {
        self.firsts.keys().copied()
    }

    /// The sequences of an id, in ascending order.
    pub(crate) fn sequences(&self, event: &EventId) -> impl Iterator<Item = u64> {
        let others = self.others.get(event).into_iter().flatten();
        self.firsts.get(event).into_iter().chain(others).copied()
    }

    /// The lowest sequence.
    pub(crate) fn first_sequence(&self) -> Option<u64> {
        self.firsts.values().min().copied()
    }

    /// Adds a sequence after the known ones.
    pub(crate) fn add(&mut self, event: EventId, sequence: u64) {
        let first = *self.firsts.entry(event).or_insert(sequence);
        if first != sequence {
            let others = self.others.entry(event).or_default();
            if !others.contains(&sequence) {
                others.push(sequence);
            }
        }
    }

    /// Adds the ids that were found in another part.
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
    pub(crate) async fn stream_state(
        &self,
        name: &str,
    ) -> Result<Option<StreamSnapshot>, BusError> {
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
            StreamSnapshot {
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

    /// The content at a sequence of a stream.
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

    /// The ids of the events that a stream still has after one sequence and up to another.
    pub(crate) async fn ids_between(
        &self,
        stream: &str,
        behind: u64,
        up_to: u64,
    ) -> Result<Found, ReaderError> {
        self.ids_from(stream, StartFrom::Sequence(behind.saturating_add(1)), up_to)
            .await
    }

    /// Like `ids_between`, from a start position.
    pub(crate) async fn ids_from(
        &self,
        stream: &str,
        start: StartFrom,
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

    /// Rises each time the connection is lost: earlier knowledge of a stream may not hold for the next connection.
    pub(crate) fn interruptions(&self) -> watch::Receiver<u64> {
        let mut interruptions = self.lost.clone();
        interruptions.mark_unchanged();
        interruptions
    }

    /// Sends a hint to all listeners, or drops it when the connection is busy. Never waits.
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

    /// Waits until all published messages are on their way to the server.
    pub(crate) async fn sent(&self) {
        // A lost connection has nothing to send.
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

/// Hints from other instances. Several hints merge into one: the receiver then finds all the work that they announce.
pub(crate) struct Pings {
    heard: Arc<Notify>,
    /// Receives hints at once, so that they do not pile up while the relay does not wait for one.
    _hearing: JoinSet<()>,
}

impl Pings {
    /// Waits for a hint; one that came before counts.
    pub(crate) async fn next(&self) {
        self.heard.notified().await;
    }
}

/// How many hints are received before other tasks run.
const PINGS: usize = 256;

async fn hear(subscriber: impl Stream<Item = Message> + Unpin, heard: Arc<Notify>) {
    let strange = Lasting::default();
    let mut many = subscriber.ready_chunks(PINGS);
    while let Some(pings) = many.next().await {
        // A hint has no content; a message with content comes from another publisher.
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

/// The event of a message. A republished event has its own message id, but keeps the event's id.
fn event_of<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Option<EventId> {
    let id = header(wire::ID).and_then(|id| id.parse().ok());
    id.or_else(|| Some(EventId::of_foreign("message", header(wire::MESSAGE_ID)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_position_of_an_id_is_known_once() {
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
