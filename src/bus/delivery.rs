//! One message from a consumer and the answers that can be given to it. Never decides which.
//!
//! Every answer is confirmed: it is a request, because a plain publish that dies in a socket's buffer
//! is a message handled twice.

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

use super::{
    Bus, BusError, Pulled,
    answers::Answers,
    envelope_of,
    letter::{Letter, size_of},
    letters::header_map,
    ours,
    park::Question,
    place::{self, Places},
    retry,
    streams::retry_at_subject,
};
use crate::{
    executor::{Acknowledger, Arrival, Past, Unanswered},
    handler::memory::{Noted, Whereabouts},
    outcome::DeadLetter,
    replaying::{Mark, Replaying},
};

/// How long the client may take to queue a message.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest delay that is asked of the server, which counts nanoseconds in 63 bits.
const LONGEST_DELAY: Duration = Duration::from_secs(365 * 86_400);

/// A message as the consumer delivered it. One that comes from the retries is as it first came, but for where
/// it is answered.
pub(crate) struct Delivery {
    bus: Arc<Bus>,
    answers: Answers,
    subscriber: Arc<str>,
    message: Message,
    /// Where the event was first stored.
    stream: Arc<str>,
    sequence: u64,
    stored_at: DateTime<Utc>,
    /// What no other event ever has, where its place is not that.
    identity: Option<String>,
    consumer_sequence: u64,
    /// Where it is among the retries, if it comes from there.
    retry_at: Option<u64>,
    /// JetStream has written it itself.
    is_marker: bool,
    is_redriven: bool,
    /// The park of its key that it may pass.
    pass: Option<Uuid>,
    /// It is no event, but asks whether a key may go on.
    question: Option<Question>,
    /// The replay that it is part of.
    replay: Option<Arc<Replaying>>,
    /// Another message of the stream has its sequence now.
    is_superseded: AtomicBool,
}

/// Reads the messages of a subscriber, or of a replay of it, and keeps what is expensive to make for each of them.
pub(crate) struct Deliveries {
    bus: Arc<Bus>,
    places: Places,
    answers: Answers,
    subscriber: Arc<str>,
    /// The replay whose consumer delivers them.
    replay: Option<Arc<Replaying>>,
    /// The subject of the last one.
    subject: Arc<str>,
}

impl Deliveries {
    pub(crate) fn new(bus: &Bus, subscriber: &Arc<str>) -> Self {
        Self {
            bus: Arc::new(bus.clone()),
            places: Places::new(bus),
            answers: Answers::new(bus),
            subscriber: Arc::clone(subscriber),
            replay: None,
            subject: "".into(),
        }
    }

    /// They are delivered by the consumer of a replay.
    pub(crate) fn of_replay(&mut self, replay: &Arc<Replaying>) {
        self.replay = Some(Arc::clone(replay));
    }

    /// A message as its stream has it: the consumer has left its payload out, or the publisher says so.
    ///
    /// # Errors
    /// [`BusError`] when the stream cannot be asked.
    pub(crate) async fn with_payload(&mut self, message: Pulled) -> Result<Pulled, BusError> {
        let (mut message, place) = self.places.read(message.0);
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
    pub(crate) fn read(&mut self, message: Pulled) -> Option<(Delivery, Arrival)> {
        let (mut message, place) = self.places.read(message.0);
        let place = place?;
        let restored = retry::restore(&mut message, &place.stream, &self.subscriber);
        let is_marker = ours::is_marker(message.headers.as_ref(), &message.payload);
        let retried = restored.replay.map(|mark| mark.retried(&self.subscriber));
        let replay = self.replay.clone().or(retried.map(Arc::new));
        let is_its = restored.is_retry && restored.put_by.is_none();
        let question = is_its.then(|| Question::of(&message)).flatten();
        // Of a retry that does not say it, its own place is all that is known.
        let its_own = || restored.origin.as_ref().map(|_| place.identity());
        let identity = restored.identity.or_else(its_own);
        let stored_at = identity.as_deref().and_then(stored_at);
        let stored_at = stored_at.unwrap_or(place.stored_at);
        let (stream, sequence) = match restored.origin {
            Some((stream, sequence)) => (stream.into(), sequence),
            None => (Arc::clone(&place.stream), place.sequence),
        };
        if *self.subject != *message.subject {
            self.subject = message.subject.as_str().into();
        }
        let named = || identity.clone().unwrap_or_else(|| place.identity());
        let arrival = Arrival {
            envelope: match restored.put_by {
                None => envelope_of(&message, named).map(Arc::new),
                Some(other) => Err(put_by_another(&other)),
            },
            subject: Arc::clone(&self.subject),
            stream: Arc::clone(&stream),
            sequence,
            stored_at,
            at: place.position(),
            consumer_sequence: place.consumer_sequence,
            delivered: place.delivered,
            past: restored.past,
            replay: replay.clone(),
        };
        let delivery = Delivery {
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
        Some((delivery, arrival))
    }
}

fn put_by_another(schedule: &str) -> wire::ReadError {
    let schedule = schedule.chars().take(200).collect::<String>();
    wire::ReadError::Malformed(format!(
        "it was put among these retries by the schedule {schedule}, which is not this subscriber's: see who may publish there"
    ))
}

fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    let headers = message.headers.as_ref()?;
    Some(headers.get(name)?.as_str())
}

impl Delivery {
    /// Tells the server that the delivery is still in hand; it may be lost.
    pub(crate) async fn progress(&self) -> Result<(), Unanswered> {
        self.tell(Bytes::from_static(b"+WPI")).await
    }

    /// Whether the event was among the dead letters, and comes again because somebody wanted it to.
    pub(crate) fn is_redriven(&self) -> bool {
        self.is_redriven
    }

    /// Names the event's way through its subscriber, from its first delivery or from a redrive: one word.
    pub(crate) fn life(&self) -> String {
        retry::id_of(self)
    }

    /// The park of its key that it may pass, because it was redriven in it.
    pub(crate) fn pass(&self) -> Option<Uuid> {
        self.pass
    }

    /// Whether JetStream has written it itself: it is nobody's event.
    pub(crate) fn is_marker(&self) -> bool {
        self.is_marker
    }

    /// What it asks, if it is no event.
    pub(crate) fn question(&self) -> Option<&Question> {
        self.question.as_ref()
    }

    /// The size of the message.
    pub(crate) fn bytes(&self) -> usize {
        self.message.length
    }

    pub(super) fn message(&self) -> &Message {
        &self.message
    }

    /// The replay that it is part of, as it is told to whoever gets it next.
    pub(super) fn mark(&self) -> Option<&Mark> {
        Some(&self.replay.as_ref()?.mark)
    }

    pub(super) fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Whether it is the message of the retries with this sequence.
    pub(super) fn is_retry_at(&self, sequence: u64) -> bool {
        self.retry_at == Some(sequence)
    }

    pub(super) fn subscriber(&self) -> &str {
        &self.subscriber
    }

    /// The stream and the sequence where the event was first stored.
    pub(crate) fn origin(&self) -> (&str, u64) {
        (&self.stream, self.sequence)
    }

    /// What no other event ever has.
    pub(super) fn identity(&self) -> Cow<'_, str> {
        match &self.identity {
            Some(identity) => identity.into(),
            None => place::identity(&self.stream, self.sequence, self.stored_at).into(),
        }
    }

    /// The letter that it becomes.
    pub(super) fn letter<'a>(&'a self, why: &'a DeadLetter) -> Letter<'a> {
        Letter {
            subscriber: &self.subscriber,
            message: &self.message,
            subject: &self.message.subject,
            message_id: message_id(&self.message),
            stream: &self.stream,
            sequence: self.sequence,
            identity: self.identity(),
            consumer_sequence: Some(self.consumer_sequence),
            why,
            replay: self.mark(),
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

    /// From now on nothing is answered: the server knows a delivery by its sequence, and would take the answer for
    /// one to the message that has it now.
    pub(crate) fn supersede(&self) {
        self.is_superseded.store(true, Relaxed);
    }

    fn is_superseded(&self) -> bool {
        self.is_superseded.load(Relaxed)
    }

    /// Whether the consumer that delivered it is, or will be, deleted: then nobody takes an answer.
    fn is_nobodys(&self) -> bool {
        let replay = self.replay.as_ref().filter(|replay| !replay.is_retry);
        replay.is_some_and(|replay| replay.course.is_over())
    }

    /// Acknowledges, and does not wait until that is confirmed: it may be lost.
    pub(crate) async fn ack_unconfirmed(&self) -> Result<(), Unanswered> {
        self.tell(Bytes::from_static(b"+ACK")).await
    }

    async fn tell(&self, what: Bytes) -> Result<(), Unanswered> {
        let Some(reply) = &self.message.reply else {
            return Ok(());
        };
        if self.is_superseded() {
            return Ok(());
        }
        let telling = self.bus.client.publish(reply.clone(), what);
        // While the connection is down the client's queue may be full, and nobody must wait for it.
        Ok(tokio::time::timeout(PATIENCE, telling).await??)
    }
}

/// When an event was first stored, by its identity: a retry of it is another message. Nothing if it is none of ours.
fn stored_at(identity: &str) -> Option<DateTime<Utc>> {
    let (place, nanos) = identity.rsplit_once('/')?;
    let (_, sequence) = place.rsplit_once('/')?;
    let (_, nanos): (u64, u64) = (sequence.parse().ok()?, nanos.parse().ok()?);
    let nanos = i64::try_from(nanos).ok()?;
    Some(DateTime::from_timestamp_nanos(nanos))
}

impl Acknowledger for Delivery {
    async fn ack(&self) -> Result<(), Unanswered> {
        Ok(self.answer("+ACK").await?)
    }

    async fn retry(&self, after: Duration, past: &Past) -> Result<(), Unanswered> {
        // It would be dropped when it is due.
        if self.is_nobodys() {
            return Ok(());
        }
        let due = Utc::now() + after.min(LONGEST_DELAY);
        let subject = retry_at_subject(&self.subscriber, &retry::id_of(self));
        let headers = retry::headers(self, past, due);
        let payload = self.message.payload.clone();
        // Boxed: most deliveries are only acknowledged.
        Box::pin(self.bus.store(subject, headers, payload)).await?;
        Ok(self.answer("+ACK").await?)
    }

    /// Not when the server would refuse the message for its size, with what a retry says of itself.
    fn can_come_again(&self, past: &Past) -> bool {
        let headers = size_of(&retry::headers(self, past, Utc::now()));
        headers <= wire::MAX_HEADER_BYTES
            && headers + self.message.payload.len() <= self.bus.max_payload()
    }

    async fn hand_back(&self, after: Duration) -> Result<(), Unanswered> {
        let nanos = after.min(LONGEST_DELAY).as_nanos();
        Ok(self.answer(format!("-NAK {{\"delay\":{nanos}}}")).await?)
    }

    async fn whereabouts(&self, noted: &Noted) -> Result<Whereabouts, Unanswered> {
        Ok(Box::pin(self.find_letter(noted)).await?)
    }

    async fn dead_letter(&self, letter: &DeadLetter) -> Result<u64, Unanswered> {
        let stored = Box::pin(self.letter(letter).bury(&self.bus)).await?;
        let reason = format!("+TERM {}", letter.cause.as_str());
        self.answer(reason).await?;
        Ok(stored)
    }
}

/// The id that whoever published the message gave it.
pub(super) fn message_id(message: &Message) -> Option<&str> {
    header(message, wire::MESSAGE_ID)
}
