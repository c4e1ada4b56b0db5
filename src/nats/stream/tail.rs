//! Reads a stream from a position on, without acks. Never changes the stream.
//!
//! An ephemeral consumer delivers each message once. When a message is missing (a lost connection, a restarted server),
//! the consumer's own sequence has a gap, and reading starts again after the last message that was seen. After a lost
//! connection, the next message is first read [alone](singly), because it may have caused the loss.

mod names;
mod singly;

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use async_nats::Message;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use tidings_contract::{Envelope, Pattern, wire::ReadError};
use tokio::sync::watch;

use crate::{
    nats::{
        Bus, BusError, PullError, Pulled, Puller, PullerOptions, envelope_of, is_in_payload,
        protocol::{
            api, authorship, codes,
            position::{DeliveryPosition, Positions},
        },
    },
    policy::start::StartFrom,
    task::interrupt::unless,
};

/// How many messages are requested at once.
const AHEAD: usize = 512;
/// How many bytes are requested at once.
const AHEAD_BYTES: usize = 32 * 1024 * 1024;
/// How long a message that the server has announced may take.
const REMOVED: Duration = Duration::from_secs(7);
/// How long the deletion of a consumer may take; otherwise the server deletes it by itself.
const GIVEN_BACK: Duration = Duration::from_secs(1);
/// How often in a row reading starts again before it fails.
const MAX_TRIES: u32 = 20;

/// A message as a reader sees it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Seen {
    /// The stream.
    pub stream: String,
    /// The sequence in the stream, from 1.
    pub sequence: u64,
    /// When the server stored it.
    pub stored_at: DateTime<Utc>,
    /// The subject.
    pub subject: String,
    /// The event; an error when neither headers nor subject name one, or when its encoding is not supported.
    pub envelope: Result<Envelope, ReadError>,
    /// How many messages were waiting after it.
    pub pending: u64,
}

/// Reads a stream, message after message, and waits for more at its end.
pub struct Reader {
    bus: Bus,
    stream: String,
    subjects: Vec<String>,
    headers_only: bool,
    start: StartFrom,
    puller: Puller,
    /// The name of the consumer.
    name: String,
    /// When the consumer last answered.
    heard_at: Instant,
    pending: u64,
    last_consumer_sequence: u64,
    positions: Positions,
    lost: watch::Receiver<u64>,
    /// How many messages are read alone before the consumer is used again.
    singly: u32,
    /// The consumer was deleted, or left to the server.
    is_ended: bool,
}

/// Why a stream cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the stream {stream} cannot be read")]
pub struct ReaderError {
    stream: String,
    #[source]
    source: BusError,
}

impl Bus {
    /// Creates an ephemeral consumer. Its inactive threshold is the wanted one, or the limit of the stream.
    pub(in crate::nats) async fn create_ephemeral<T: DeserializeOwned>(
        &self,
        subject: &str,
        stream: &str,
        config: Value,
    ) -> Result<T, BusError> {
        let mut request = json!({ "stream_name": stream, "config": config, "action": "create" });
        match self.api(subject, &request).await {
            Err(BusError::Refused {
                code: codes::INACTIVE_THRESHOLD_EXCEEDED,
                ..
            }) => {
                // Without a value the stream's own applies.
                request["config"]["inactive_threshold"] = json!(0);
                self.api(subject, &request).await
            }
            created => created,
        }
    }

    /// Reads a stream from `start` on; with subjects, only the messages that match them.
    ///
    /// # Errors
    /// [`ReaderError`] when there is no such stream or the server does not answer.
    pub async fn read(
        &self,
        stream: &str,
        subjects: &[Pattern],
        start: StartFrom,
    ) -> Result<Reader, ReaderError> {
        let subjects = subjects.iter().map(ToString::to_string).collect();
        Reader::open(self, stream, subjects, start, false).await
    }
}

impl Reader {
    pub(in crate::nats) async fn open(
        bus: &Bus,
        stream: &str,
        subjects: Vec<String>,
        start: StartFrom,
        headers_only: bool,
    ) -> Result<Self, ReaderError> {
        let failed = |source| ReaderError {
            stream: stream.to_owned(),
            source,
        };
        let start = match start {
            // With several filters nats-server 2.15.1 starts after the time.
            StartFrom::Time(time) if subjects.len() > 1 => {
                StartFrom::Sequence(bus.sequence_at(stream, time).await.map_err(failed)?)
            }
            start => start,
        };
        // From here on, a lost connection may have been caused by a message that was read.
        let mut lost = bus.lost.clone();
        lost.mark_unchanged();
        let consumer = consumer(bus, stream, &subjects, start, headers_only).await;
        let Opened {
            puller,
            name,
            pending,
            start,
        } = consumer.map_err(failed)?;
        Ok(Self {
            bus: bus.clone(),
            stream: stream.to_owned(),
            subjects,
            headers_only,
            start,
            puller,
            name,
            heard_at: Instant::now(),
            pending,
            last_consumer_sequence: 0,
            positions: Positions::new(bus),
            lost,
            singly: 0,
            is_ended: false,
        })
    }

    /// How many messages are waiting to be read, as of the last one.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.pending
    }

    /// The next message; waits for it at the end of the stream. Messages that JetStream has written itself, in place of
    /// expired or deleted ones, are skipped.
    ///
    /// # Errors
    /// [`ReaderError`] when the stream is gone or the server did not come back.
    ///
    /// # Cancel safety
    /// No message is skipped when the future is dropped.
    pub async fn next(&mut self) -> Result<Seen, ReaderError> {
        let (message, position) = loop {
            let (message, position) = self.next_message().await?;
            if !authorship::is_marker(message.headers.as_ref(), &message.payload) {
                break (message, position);
            }
        };
        Ok(Seen {
            envelope: envelope_of(&message, || position.identity()),
            subject: message.subject.to_string(),
            stream: position.stream.to_string(),
            sequence: position.sequence,
            stored_at: position.stored_at,
            pending: position.pending,
        })
    }

    /// The next message up to a sequence, if there is one, skipping those that JetStream has written itself. It does
    /// not wait for messages that the server has announced and has removed since.
    pub(in crate::nats) async fn next_up_to(
        &mut self,
        last: u64,
    ) -> Result<Option<(Message, DeliveryPosition)>, ReaderError> {
        while self.pending > 0 && !self.start.is_behind(last) {
            let next = {
                let next = pin!(self.next_message());
                unless(next, || tokio::time::sleep(REMOVED)).await
            };
            let Some(next) = next else {
                self.begin_anew(&mut 0, "no message came").await?;
                continue;
            };
            let (message, position) = next?;
            if authorship::is_marker(message.headers.as_ref(), &message.payload) {
                continue;
            }
            if position.sequence > last {
                break;
            }
            return Ok(Some((self.whole(message, &position).await?, position)));
        }
        self.end().await;
        Ok(None)
    }

    /// Deletes the consumer, and waits until the request is on its way: the process may exit afterwards.
    pub(in crate::nats) async fn end(&mut self) {
        if self.let_go() {
            let sent = self.bus.client.flush();
            let _ = tokio::time::timeout(GIVEN_BACK, sent).await;
        }
    }

    /// Deletes the consumer once, unless it may belong to another reader.
    fn let_go(&mut self) -> bool {
        let is_ours = !self.is_ended && !self.may_be_anothers();
        self.is_ended = true;
        is_ours && self.bus.end_reader(&self.stream, &self.name)
    }

    /// Adds the omitted payload to a message whose kind is only known from its payload.
    async fn whole(
        &self,
        mut message: Message,
        position: &DeliveryPosition,
    ) -> Result<Message, ReaderError> {
        if self.headers_only && is_in_payload(&message) {
            let kept = self.bus.kept(&self.stream, position.sequence).await;
            let kept = kept.map_err(|source| self.failed(source))?;
            if let Some(kept) = kept.filter(|kept| kept.stored_at == position.stored_at) {
                message.payload = kept.payload;
            }
        }
        Ok(message)
    }

    pub(in crate::nats) async fn next_message(
        &mut self,
    ) -> Result<(Message, DeliveryPosition), ReaderError> {
        let mut tries = 0;
        loop {
            if self.singly > 0 {
                match self.next_single(&mut tries).await? {
                    Some(seen) => return Ok(seen),
                    None => continue,
                }
            }
            if self.may_be_anothers() {
                self.begin_anew(&mut tries, "nothing was heard for long")
                    .await?;
                continue;
            }
            let pulled = match self.puller.ask(AHEAD, AHEAD, AHEAD_BYTES).await {
                Ok(()) => match self.puller.next_now() {
                    Some(pulled) => pulled,
                    None => self.puller.next().await,
                },
                Err(error) => Err(error),
            };
            if self.bus.readers.is_some() {
                self.heard_at = Instant::now();
            }
            match pulled {
                Ok(None) => drop(self.take_loss()),
                Ok(Some(Pulled(message))) => {
                    if let Some(seen) = self.in_sequence(message) {
                        return Ok(seen);
                    }
                    self.begin_anew(&mut tries, "a message is missing").await?;
                }
                Err(error) => self.begin_anew(&mut tries, &error.to_string()).await?,
            }
        }
    }

    /// Whether the consumer may belong to another reader by now: the server deletes a consumer that is not pulled from
    /// for a while, and then its name is free.
    fn may_be_anothers(&self) -> bool {
        self.bus.readers.is_some() && self.heard_at.elapsed() >= names::KEPT_BY_NAME
    }

    /// The message, if it is the next one in sequence.
    fn in_sequence(&mut self, message: Message) -> Option<(Message, DeliveryPosition)> {
        let (message, position) = self.positions.read(message);
        let position = position?;
        if position.consumer_sequence != self.last_consumer_sequence.saturating_add(1) {
            return None;
        }
        self.last_consumer_sequence = position.consumer_sequence;
        self.start = StartFrom::Sequence(position.sequence.saturating_add(1));
        self.pending = position.pending;
        Some((message, position))
    }

    /// Continues with a new consumer, which also reports the number of waiting messages again.
    async fn begin_anew(&mut self, tries: &mut u32, why: &str) -> Result<(), ReaderError> {
        *tries += 1;
        tracing::debug!(stream = self.stream, why, tries, "reader restarted");
        if self.take_loss() {
            return Ok(());
        }
        self.reopen(self.start, tries).await
    }

    async fn reopen(&mut self, start: StartFrom, tries: &mut u32) -> Result<(), ReaderError> {
        self.let_go();
        loop {
            let opened = consumer(
                &self.bus,
                &self.stream,
                &self.subjects,
                start,
                self.headers_only,
            );
            match opened.await {
                Ok(opened) => {
                    self.puller = opened.puller;
                    self.name = opened.name;
                    self.is_ended = false;
                    self.heard_at = Instant::now();
                    self.pending = opened.pending;
                    self.start = opened.start;
                    self.last_consumer_sequence = 0;
                    return Ok(());
                }
                Err(source)
                    if *tries >= MAX_TRIES || matches!(source, BusError::Refused { .. }) =>
                {
                    return Err(self.failed(source));
                }
                Err(_) => {
                    *tries += 1;
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }

    fn failed(&self, source: BusError) -> ReaderError {
        ReaderError {
            stream: self.stream.clone(),
            source,
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// A consumer to read from.
struct Opened {
    puller: Puller,
    name: String,
    /// How many messages wait in it.
    pending: u64,
    /// Where it starts: a sequence wherever the start could differ the next time.
    start: StartFrom,
}

/// Creates an ephemeral consumer.
async fn consumer(
    bus: &Bus,
    stream: &str,
    subjects: &[String],
    start: StartFrom,
    headers_only: bool,
) -> Result<Opened, BusError> {
    #[derive(Deserialize)]
    struct Created {
        num_pending: u64,
        delivered: Delivered,
    }
    #[derive(Deserialize)]
    struct Delivered {
        stream_seq: u64,
    }
    let mut config = json!({
        "ack_policy": "none",
        "max_deliver": 1,
        "mem_storage": true,
        "num_replicas": 1,
        "headers_only": headers_only,
    });
    if let Value::Object(config) = &mut config {
        config.extend(start.settings());
        match subjects {
            [] => {}
            [one] => drop(config.insert("filter_subject".into(), json!(one))),
            many => drop(config.insert("filter_subjects".into(), json!(many))),
        }
    }
    let filter = match subjects {
        [one] => Some(&**one),
        _ => None,
    };
    let (name, created) = bus.create_reader::<Created>(stream, filter, config).await?;
    let options = PullerOptions {
        stream: stream.to_owned(),
        consumer: name.clone(),
    };
    match Puller::open(bus, &options).await {
        Ok(puller) => Ok(Opened {
            puller: puller.unwatched(),
            name,
            pending: created.num_pending,
            start: match start {
                StartFrom::New | StartFrom::Time(_) => {
                    StartFrom::Sequence(created.delivered.stream_seq.saturating_add(1))
                }
                start => start,
            },
        }),
        Err(PullError::Bus(error)) => Err(error),
        Err(PullError::Gone(reason)) => Err(BusError::Broken {
            subject: api::consumer_next(stream, &options.consumer),
            reason,
        }),
    }
}

impl StartFrom {
    /// Whether it lies after a sequence.
    fn is_behind(self, sequence: u64) -> bool {
        matches!(self, Self::Sequence(next) if next > sequence)
    }

    /// The settings of a consumer that starts here, under the names of the JetStream API.
    pub(in crate::nats) fn settings(self) -> Map<String, Value> {
        let settings = match self {
            Self::Beginning | Self::Sequence(0 | 1) => json!({ "deliver_policy": "all" }),
            Self::New => json!({ "deliver_policy": "new" }),
            Self::Sequence(sequence) => {
                json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": sequence })
            }
            Self::Time(time) => json!({
                "deliver_policy": "by_start_time",
                "opt_start_time": time.to_rfc3339_opts(SecondsFormat::Nanos, true),
            }),
        };
        match settings {
            Value::Object(settings) => settings,
            _ => Map::new(),
        }
    }
}
