//! Reads the messages of a consumer, and answers them: ack, nak, retry, dead letter. Never decides which.
//!
//! Every final answer is confirmed: it is a request, because a plain publish that is lost in a socket's buffer means
//! that a message is handled twice.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use async_nats::Message;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use tidings_contract::wire;
use uuid::Uuid;

use super::answers::Answers;
use crate::{
    executor::{AckError, Acknowledger, Delivery, Past},
    handler::memory::{Noted, Whereabouts},
    nats::{
        Bus, BusError, Pulled, envelope_of,
        kv::park::Question,
        protocol::{
            authorship,
            dead_letter::{DeadLetterMessage, size_of},
            position::{self, Positions},
            retry::{self, Origin},
            subjects,
        },
        stream::messages::header_map,
    },
    policy::outcome::DeadLetter,
    replay::tag::{ReplayTag, Replaying},
};

/// How long the client may take to queue a message.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest delay that is requested of the server, which counts nanoseconds in 63 bits.
const LONGEST_DELAY: Duration = Duration::from_secs(365 * 86_400);

/// Answers one message of a consumer. A retry is restored to its original form, except for its ack subject.
pub(crate) struct AckHandle {
    bus: Arc<Bus>,
    answers: Answers,
    subscriber: Arc<str>,
    message: Message,
    /// The position at which the event was first stored.
    stream: Arc<str>,
    sequence: u64,
    stored_at: DateTime<Utc>,
    /// The unique identity of the event, unless its position serves as one.
    identity: Option<String>,
    consumer_sequence: u64,
    /// Its sequence in the stream of retries, if it is a retry.
    retry_at: Option<u64>,
    /// JetStream has written the message itself.
    is_marker: bool,
    is_redriven: bool,
    /// The park of its key that it may pass, because it was redriven in it.
    pass: Option<Uuid>,
    /// It is not an event, but the question whether its key may be unparked.
    question: Option<Question>,
    /// The replay that it belongs to.
    replay: Option<Arc<Replaying>>,
    /// Another message of the stream has its sequence now.
    is_superseded: AtomicBool,
}

/// Reads the messages of a subscriber, or of a replay of it, and caches what is expensive to create for each of them.
pub(crate) struct Deliveries {
    bus: Arc<Bus>,
    positions: Positions,
    answers: Answers,
    subscriber: Arc<str>,
    /// The replay whose consumer delivers them.
    replay: Option<Arc<Replaying>>,
    /// The subject of the last message.
    subject: Arc<str>,
}

impl Deliveries {
    pub(crate) fn new(bus: &Bus, subscriber: &Arc<str>) -> Self {
        Self {
            bus: Arc::new(bus.clone()),
            positions: Positions::new(bus),
            answers: Answers::new(bus),
            subscriber: Arc::clone(subscriber),
            replay: None,
            subject: "".into(),
        }
    }

    /// Marks the deliveries as those of a replay's consumer.
    pub(crate) fn of_replay(&mut self, replay: &Arc<Replaying>) {
        self.replay = Some(Arc::clone(replay));
    }

    /// A message as its stream stores it, for when the consumer has omitted its payload, or a header of its publisher
    /// states that.
    ///
    /// # Errors
    /// [`BusError`] when the stream does not answer.
    pub(crate) async fn with_payload(&mut self, message: Pulled) -> Result<Pulled, BusError> {
        let (mut message, place) = self.positions.read(message.0);
        let Some(place) = place else {
            return Ok(Pulled(message));
        };
        let kept = self.bus.kept(&place.stream, place.sequence).await?;
        if let Some(kept) = kept.filter(|kept| kept.stored_at == place.stored_at) {
            message.length += kept.payload.len();
            message.headers = Some(header_map(&kept.headers));
            message.payload = kept.payload;
        }
        Ok(Pulled(message))
    }

    /// Reads a message; `None` when it does not come from a consumer.
    pub(crate) fn read(&mut self, message: Pulled) -> Option<(AckHandle, Delivery)> {
        let (mut message, place) = self.positions.read(message.0);
        let place = place?;
        let restored = retry::restore(&mut message, &place.stream, &self.subscriber);
        let is_marker = authorship::is_marker(message.headers.as_ref(), &message.payload);
        let retried = restored.replay.map(|tag| tag.retried(&self.subscriber));
        let replay = self.replay.clone().or(retried.map(Arc::new));
        let is_its = restored.is_retry && restored.foreign_schedule.is_none();
        let question = is_its.then(|| Question::of(&message)).flatten();
        // When a retry does not state its identity, its own position is all that is known.
        let its_own = || restored.origin.as_ref().map(|_| place.identity());
        let identity = restored.identity.or_else(its_own);
        let stored_at = identity.as_deref().and_then(position::stored_at);
        let stored_at = stored_at.unwrap_or(place.stored_at);
        let (stream, sequence) = match restored.origin {
            Some((stream, sequence)) => (stream.into(), sequence),
            None => (Arc::clone(&place.stream), place.sequence),
        };
        if *self.subject != *message.subject {
            self.subject = message.subject.as_str().into();
        }
        let named = || identity.clone().unwrap_or_else(|| place.identity());
        let delivery = Delivery {
            envelope: match restored.foreign_schedule {
                None => envelope_of(&message, named).map(Arc::new),
                Some(other) => Err(scheduled_by_another(&other)),
            },
            subject: Arc::clone(&self.subject),
            stream: Arc::clone(&stream),
            sequence,
            stored_at,
            position: place.position(),
            consumer_sequence: place.consumer_sequence,
            delivered: place.delivered,
            is_suspect: false,
            past: restored.past,
            replay: replay.clone(),
        };
        let ack = AckHandle {
            bus: Arc::clone(&self.bus),
            answers: self.answers.clone(),
            subscriber: Arc::clone(&self.subscriber),
            message,
            stream,
            sequence,
            stored_at,
            identity,
            consumer_sequence: place.consumer_sequence,
            retry_at: restored.is_retry.then_some(place.sequence),
            is_marker,
            is_redriven: restored.is_redriven,
            pass: restored.pass,
            question,
            replay,
            is_superseded: AtomicBool::new(false),
        };
        Some((ack, delivery))
    }
}

fn scheduled_by_another(schedule: &str) -> wire::ReadError {
    let schedule = schedule.chars().take(200).collect::<String>();
    wire::ReadError::Malformed(format!(
        "the schedule {schedule}, which is not of this subscriber, put it into these retries: check which users may \
         publish there"
    ))
}

impl AckHandle {
    /// Reports to the server that the delivery is still in flight; the report may be lost.
    pub(crate) async fn progress(&self) -> Result<(), AckError> {
        self.tell(Bytes::from_static(b"+WPI")).await
    }

    /// Whether the event was a dead letter, and was redriven.
    pub(crate) fn is_redriven(&self) -> bool {
        self.is_redriven
    }

    /// Identifies the event's passage through its subscriber, from its first delivery or from a redrive: one word.
    pub(crate) fn passage(&self) -> String {
        retry::id_of(&self.origin())
    }

    /// The park of its key that it may pass, because it was redriven in it.
    pub(crate) fn pass(&self) -> Option<Uuid> {
        self.pass
    }

    /// Whether JetStream has written the message itself: it is not an event.
    pub(crate) fn is_marker(&self) -> bool {
        self.is_marker
    }

    /// The question that it carries, if it is not an event.
    pub(crate) fn question(&self) -> Option<&Question> {
        self.question.as_ref()
    }

    /// The size of the message.
    pub(crate) fn bytes(&self) -> usize {
        self.message.length
    }

    pub(in crate::nats) fn message(&self) -> &Message {
        &self.message
    }

    /// The replay that it belongs to, as it is passed on with retries and dead letters.
    pub(in crate::nats) fn replay_tag(&self) -> Option<&ReplayTag> {
        Some(&self.replay.as_ref()?.tag)
    }

    pub(in crate::nats) fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Whether it is the message of the retries with this sequence.
    pub(in crate::nats) fn is_retry_at(&self, sequence: u64) -> bool {
        self.retry_at == Some(sequence)
    }

    pub(in crate::nats) fn subscriber(&self) -> &str {
        &self.subscriber
    }

    /// The stream and the sequence where the event was first stored.
    pub(crate) fn first_stored(&self) -> (&str, u64) {
        (&self.stream, self.sequence)
    }

    /// What its retries carry of it.
    fn origin(&self) -> Origin<'_> {
        Origin {
            subscriber: &self.subscriber,
            message: &self.message,
            stream: &self.stream,
            sequence: self.sequence,
            identity: self.identity(),
            replay: self.replay_tag(),
        }
    }

    /// An identity that no other event ever has.
    pub(in crate::nats) fn identity(&self) -> Cow<'_, str> {
        match &self.identity {
            Some(identity) => identity.into(),
            None => position::identity(&self.stream, self.sequence, self.stored_at).into(),
        }
    }

    /// The dead letter that it becomes.
    pub(in crate::nats) fn dead_letter_message<'a>(
        &'a self,
        why: &'a DeadLetter,
    ) -> DeadLetterMessage<'a> {
        DeadLetterMessage {
            subscriber: &self.subscriber,
            message: &self.message,
            subject: &self.message.subject,
            message_id: retry::message_id(&self.message),
            stream: &self.stream,
            sequence: self.sequence,
            identity: self.identity(),
            consumer_sequence: Some(self.consumer_sequence),
            why,
            replay: self.replay_tag(),
        }
    }

    async fn answer(&self, payload: impl Into<Bytes> + Send) -> Result<(), BusError> {
        let Some(reply) = &self.message.reply else {
            return Ok(());
        };
        let is_void = || self.is_nobodys() || self.is_superseded();
        if is_void() {
            return Ok(());
        }
        match self.answers.send(reply, payload.into()).await {
            Err(_) if is_void() => Ok(()),
            answered => answered,
        }
    }

    /// Suppresses all answers from now on: the server identifies a delivery by its sequence, and would take the answer
    /// for one to the message that has the sequence now.
    pub(crate) fn supersede(&self) {
        self.is_superseded.store(true, Relaxed);
    }

    fn is_superseded(&self) -> bool {
        self.is_superseded.load(Relaxed)
    }

    /// Whether the consumer that delivered it is, or will be, deleted: then no answer is needed.
    fn is_nobodys(&self) -> bool {
        let replay = self.replay.as_ref().filter(|replay| !replay.is_retry);
        replay.is_some_and(|replay| replay.counters.is_over())
    }

    /// Acknowledges without waiting for the confirmation: the ack may be lost.
    pub(crate) async fn ack_unconfirmed(&self) -> Result<(), AckError> {
        self.tell(Bytes::from_static(b"+ACK")).await
    }

    async fn tell(&self, what: Bytes) -> Result<(), AckError> {
        let Some(reply) = &self.message.reply else {
            return Ok(());
        };
        if self.is_superseded() {
            return Ok(());
        }
        let telling = self.bus.client.publish(reply.clone(), what);
        // While the connection is down the client's queue may be full, and the caller must not wait for it.
        Ok(tokio::time::timeout(PATIENCE, telling).await??)
    }
}

impl Acknowledger for AckHandle {
    async fn ack(&self) -> Result<(), AckError> {
        Ok(self.answer("+ACK").await?)
    }

    async fn retry(&self, after: Duration, past: &Past) -> Result<(), AckError> {
        // The retry would be dropped when it is due.
        if self.is_nobodys() {
            return Ok(());
        }
        let due = Utc::now() + after.min(LONGEST_DELAY);
        let subject = subjects::scheduled_retry(&self.subscriber, &self.passage());
        let headers = retry::headers(&self.origin(), past, due);
        let payload = self.message.payload.clone();
        // Boxed, because most deliveries are only acknowledged.
        Box::pin(self.bus.store(subject, headers, payload)).await?;
        Ok(self.answer("+ACK").await?)
    }

    /// False when the server would refuse the message for its size, with the headers that a retry adds.
    fn can_come_again(&self, past: &Past) -> bool {
        let headers = size_of(&retry::headers(&self.origin(), past, Utc::now()));
        headers <= wire::MAX_HEADER_BYTES
            && headers + self.message.payload.len() <= self.bus.max_payload()
    }

    async fn hand_back(&self, after: Duration) -> Result<(), AckError> {
        let nanos = after.min(LONGEST_DELAY).as_nanos();
        Ok(self.answer(format!("-NAK {{\"delay\":{nanos}}}")).await?)
    }

    async fn whereabouts(&self, noted: &Noted) -> Result<Whereabouts, AckError> {
        Ok(Box::pin(self.find_letter(noted)).await?)
    }

    async fn dead_letter(&self, letter: &DeadLetter) -> Result<u64, AckError> {
        let stored = Box::pin(self.dead_letter_message(letter).publish(&self.bus)).await?;
        let reason = format!("+TERM {}", letter.cause.as_str());
        self.answer(reason).await?;
        Ok(stored)
    }
}
