//! One message from a consumer and the answers that can be given to it. Never decides which.
//!
//! Every answer is confirmed: it is a request, because a plain publish that dies in a socket's buffer
//! is a message handled twice.

use std::{sync::Arc, time::Duration};

use async_nats::{
    Message,
    jetstream::{self, Context},
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use tidings_contract::wire;
use uuid::Uuid;

use super::{
    Bus, BusError, Pulled,
    answers::Answers,
    envelope_of,
    letter::{Letter, REDRIVE, size_of},
    mark,
    park::Question,
    retry,
    streams::retry_at_subject,
};
use crate::{
    executor::{Acknowledger, Arrival, Past, Unanswered},
    outcome::DeadLetter,
    replaying::Replaying,
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
    stream: String,
    sequence: u64,
    /// What no other event ever has.
    identity: String,
    consumer_sequence: u64,
    /// The park of its key that it may pass.
    pass: Option<Uuid>,
    /// It is no event, but asks whether a key may go on.
    question: Option<Question>,
    /// The replay whose consumer delivered it.
    replay: Option<Arc<Replaying>>,
}

/// Where a message stands, from its reply subject.
pub(super) struct Place {
    pub(super) stream: String,
    pub(super) sequence: u64,
    pub(super) consumer_sequence: u64,
    pub(super) delivered: u32,
    pub(super) stored_at: DateTime<Utc>,
    pub(super) pending: u64,
}

impl Place {
    /// `None` when the message does not come from a consumer.
    pub(super) fn of(bus: &Bus, message: Message) -> (Message, Option<Self>) {
        let (message, place, _) = Self::with(bus.jetstream.clone(), message);
        (message, place)
    }

    fn with(context: Context, message: Message) -> (Message, Option<Self>, Context) {
        let message = jetstream::Message { message, context };
        let place = message.info().ok().map(|info| Self {
            stream: info.stream.to_owned(),
            sequence: info.stream_sequence,
            consumer_sequence: info.consumer_sequence,
            delivered: u32::try_from(info.delivered).unwrap_or(u32::MAX),
            stored_at: i64::try_from(info.published.unix_timestamp_nanos())
                .map(DateTime::from_timestamp_nanos)
                .unwrap_or_default(),
            pending: info.pending,
        });
        (message.message, place, message.context)
    }
}

impl Place {
    /// What no other message ever has: a sequence comes again when a stream is created anew.
    pub(super) fn identity(&self) -> String {
        let stored_at = self.stored_at.timestamp_nanos_opt().unwrap_or_default();
        format!("{}/{}/{stored_at}", self.stream, self.sequence)
    }
}

/// Reads the messages of a subscriber, or of a replay of it, and keeps what is expensive to clone for each of them.
pub(crate) struct Deliveries {
    bus: Arc<Bus>,
    answers: Answers,
    subscriber: Arc<str>,
    /// The replay whose consumer delivers them.
    replay: Option<Arc<Replaying>>,
    /// Here between two messages.
    context: Option<Context>,
}

impl Deliveries {
    pub(crate) fn new(bus: &Bus, subscriber: &Arc<str>) -> Self {
        Self {
            bus: Arc::new(bus.clone()),
            answers: Answers::new(bus),
            subscriber: Arc::clone(subscriber),
            replay: None,
            context: None,
        }
    }

    /// They are delivered by the consumer of a replay.
    pub(crate) fn of_replay(&mut self, replay: &Arc<Replaying>) {
        self.replay = Some(Arc::clone(replay));
    }

    /// Reads a message; `None` when it does not come from a consumer.
    pub(crate) fn read(&mut self, message: Pulled) -> Option<(Delivery, Arrival)> {
        let context = self.context.take();
        let context = context.unwrap_or_else(|| self.bus.jetstream.clone());
        let (mut message, place, context) = Place::with(context, message.0);
        self.context = Some(context);
        let place = place?;
        let restored = retry::restore(&mut message, &self.subscriber);
        let replay = self.replay.clone();
        let mark = replay.as_ref().map(|replay| &replay.mark);
        mark::write(&mut message, mark.or(restored.replay.as_ref()));
        let retried = restored
            .replay
            .map(|mark| Arc::new(mark.retried(&self.subscriber)));
        let question = Question::of(&message);
        let identity = restored.identity.unwrap_or_else(|| place.identity());
        let origin = restored.origin;
        let (stream, sequence) = origin.unwrap_or_else(|| (place.stream.clone(), place.sequence));
        let arrival = Arrival {
            envelope: envelope_of(&message, || identity.clone()).map(Arc::new),
            subject: message.subject.to_string(),
            stream: stream.clone(),
            sequence,
            stored_at: stored_at(&identity).unwrap_or(place.stored_at),
            at: place.sequence,
            consumer_sequence: place.consumer_sequence,
            delivered: place.delivered,
            past: restored.past,
            replay: replay.clone().or(retried),
        };
        let delivery = Delivery {
            bus: Arc::clone(&self.bus),
            answers: self.answers.clone(),
            subscriber: Arc::clone(&self.subscriber),
            message,
            stream,
            sequence,
            identity,
            consumer_sequence: place.consumer_sequence,
            pass: restored.pass,
            question,
            replay,
        };
        Some((delivery, arrival))
    }
}

impl Delivery {
    /// Tells the server that the delivery is still in hand; it may be lost.
    pub(crate) async fn progress(&self) -> Result<(), Unanswered> {
        self.tell(Bytes::from_static(b"+WPI")).await
    }

    /// Whether the event was among the dead letters, and comes again because somebody wanted it to.
    pub(crate) fn is_redriven(&self) -> bool {
        let headers = self.message.headers.as_ref();
        headers.is_some_and(|headers| headers.get(REDRIVE).is_some())
    }

    /// Names the event's way through its subscriber, from its first delivery or from a redrive: one word.
    pub(crate) fn life(&self) -> String {
        retry::id_of(self)
    }

    /// The park of its key that it may pass, because it was redriven in it.
    pub(crate) fn pass(&self) -> Option<Uuid> {
        self.pass
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

    pub(super) fn subscriber(&self) -> &str {
        &self.subscriber
    }

    /// The stream and the sequence where the event was first stored.
    pub(crate) fn origin(&self) -> (&str, u64) {
        (&self.stream, self.sequence)
    }

    pub(super) fn identity(&self) -> &str {
        &self.identity
    }

    fn letter<'a>(&'a self, why: &'a DeadLetter) -> Letter<'a> {
        Letter {
            subscriber: &self.subscriber,
            message: &self.message,
            subject: &self.message.subject,
            message_id: message_id(&self.message),
            stream: &self.stream,
            sequence: self.sequence,
            identity: &self.identity,
            consumer_sequence: Some(self.consumer_sequence),
            why,
        }
    }

    async fn answer(&self, payload: impl Into<Bytes> + Send) -> Result<(), BusError> {
        let Some(reply) = &self.message.reply else {
            return Ok(());
        };
        if self.is_nobodys() {
            return Ok(());
        }
        match self.answers.send(reply, payload.into()).await {
            Err(_) if self.is_nobodys() => Ok(()),
            answered => answered,
        }
    }

    /// Whether the consumer that delivered it is, or will be, deleted: then nobody takes an answer.
    fn is_nobodys(&self) -> bool {
        let replay = self.replay.as_ref();
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
        let telling = self.bus.client.publish(reply.clone(), what);
        // While the connection is down the client's queue may be full, and nobody must wait for it.
        Ok(tokio::time::timeout(PATIENCE, telling).await??)
    }
}

/// When an event was first stored, by its identity: a retry of it is another message.
fn stored_at(identity: &str) -> Option<DateTime<Utc>> {
    let nanos = identity.rsplit('/').next()?.parse().ok()?;
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

    async fn is_buried(
        &self,
        letter: &DeadLetter,
        since: DateTime<Utc>,
    ) -> Result<bool, Unanswered> {
        Ok(self.letter(letter).is_stored(&self.bus, since).await?)
    }

    async fn dead_letter(&self, letter: &DeadLetter) -> Result<(), Unanswered> {
        Box::pin(self.letter(letter).bury(&self.bus)).await?;
        let reason = format!("+TERM {}", letter.cause.as_str());
        Ok(self.answer(reason).await?)
    }
}

/// The id that whoever published the message gave it.
pub(super) fn message_id(message: &Message) -> Option<&str> {
    let headers = message.headers.as_ref()?;
    Some(headers.get(wire::MESSAGE_ID)?.as_str())
}
