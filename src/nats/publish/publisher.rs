//! Publishes without a database: one await, confirmed by the server.

use async_nats::Request;
use chrono::Utc;
use tidings_contract::{Envelope, EnvelopeError, EventId, IntoEnvelope, wire};

use crate::{
    handler::context,
    nats::{Bus, BusError, Holder, Receipt, headers_of},
    observer::traces,
};

/// Publishes events directly to their stream. An event that is published twice with one id within the stream's
/// deduplication window is stored once; another event with that id is refused, if this user may read the stream's
/// messages (`$JS.API.STREAM.MSG.GET.<stream>`).
///
/// Use an [`Outbox`](crate::Outbox) when the event reports a change in a database: a crash between the commit and this
/// call loses the event.
#[derive(Clone, Debug)]
pub struct EventPublisher {
    bus: Bus,
    source: String,
}

/// Why an event was not published, or may not have been.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The event is not valid; nothing was sent.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The event is larger than the server accepts; nothing was sent.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// No stream takes the subject, or its stream has no leader at the moment.
    #[error(
        "no stream takes {subject}: `tidings streams apply` creates one; an existing stream may be electing a leader"
    )]
    NoStream {
        /// The event's subject.
        subject: String,
    },
    /// The server refused the event.
    #[error("NATS refused {subject}: {description} ({code})")]
    Refused {
        /// The event's subject.
        subject: String,
        /// The server's error code.
        code: u64,
        /// The server's description.
        description: String,
    },
    /// Another event has the same id, so the event was not stored. Give it an id of its own.
    #[error("{event} was not stored: {holder}")]
    DuplicateId {
        /// The event's id.
        event: EventId,
        /// Which event has the id, and where it is.
        holder: String,
    },
    /// It is unknown whether the event was stored. Publishing it again with the same id is safe.
    #[error("{subject} was not confirmed: publish it again with the same id")]
    Unconfirmed {
        /// The event's subject.
        subject: String,
        /// What happened.
        #[source]
        source: BusError,
    },
}

const HEADERS: &str = "headers";

/// The event is larger than the server accepts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} has {bytes} bytes of {part}: the limit is {limit}")]
pub struct TooLarge {
    name: String,
    part: &'static str,
    bytes: usize,
    limit: usize,
}

impl TooLarge {
    /// The origin of the limit, and the cure when the event is already in the outbox.
    #[cfg(feature = "outbox")]
    pub(crate) fn why(&self) -> &'static str {
        match self.part {
            HEADERS => {
                "which is what every nats-server takes: discard the event, and put the headers into the payload"
            }
            _ => {
                "the max_payload of the nats-server: raise that and unpark it, or discard it and publish \
                 where its data is"
            }
        }
    }
}

impl PublishError {
    /// The kind of error, as a fixed word.
    const fn kind(&self) -> &'static str {
        match self {
            Self::Envelope(_) => "invalid",
            Self::TooLarge(_) => "too-large",
            Self::NoStream { .. } => "no-stream",
            Self::Refused { .. } => "refused",
            Self::DuplicateId { .. } => "duplicate-id",
            Self::Unconfirmed { .. } => "unconfirmed",
        }
    }
}

impl EventPublisher {
    /// A publisher that uses a connection.
    #[must_use]
    pub fn new(bus: &Bus) -> Self {
        Self {
            bus: bus.clone(),
            source: wire::DEFAULT_SOURCE.to_owned(),
        }
    }

    /// Sets the name of the publishing service, for `ce-source`; default `tidings`.
    #[must_use]
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = source.into();
        self
    }

    /// Publishes an event, or an [`Envelope`] with more attributes, and waits until it is stored. Inside a handler the
    /// event inherits correlation and trace; in a [replay](crate::replays::Replays) it is only counted, unless the replay
    /// publishes follow-ups.
    ///
    /// # Errors
    /// [`PublishError`]; only after [`PublishError::Unconfirmed`] may the event have been stored.
    ///
    /// # Cancel safety
    /// When the future is dropped, the event may or may not be stored.
    pub async fn publish(&self, event: impl IntoEnvelope) -> Result<EventId, PublishError> {
        let event = event.into_envelope()?;
        // What a replay suppresses is not sent.
        let observer = traces::installed().filter(|_| !context::is_suppressing());
        let Some(observer) = observer else {
            return self.send(context::descend(event)).await;
        };
        let sending = observer.sending(&event);
        let context = sending.as_ref().and_then(|sending| sending.context());
        let envelope = context::descend(traces::with(event, context));
        let sent = self.send(envelope).await;
        if let Some(sending) = sending {
            sending.ended(sent.as_ref().err().map(PublishError::kind));
        }
        sent
    }

    /// Sends an event as it is, unless a replay suppresses it.
    async fn send(&self, envelope: Envelope) -> Result<EventId, PublishError> {
        let defaults = wire::Defaults::new(&self.source, Utc::now());
        check_size(&envelope, defaults, self.bus.max_payload())?;
        if context::suppresses(1) {
            return Ok(envelope.id());
        }
        let subject = envelope.name().to_string();
        let request = Request::new()
            .headers(headers_of(&envelope, defaults))
            .payload(envelope.payload().clone());
        match self.bus.request(&subject, request).await {
            Ok(answer) => match Receipt::read(&answer).into_result() {
                Ok(receipt) if receipt.duplicate => self.recognised(&envelope, receipt).await,
                Ok(_) => Ok(envelope.id()),
                Err(error) => Err(PublishError::Refused {
                    subject,
                    code: error.err_code,
                    description: error.description,
                }),
            },
            Err(BusError::NoResponders { .. }) => Err(PublishError::NoStream { subject }),
            Err(source) => Err(PublishError::Unconfirmed { subject, source }),
        }
    }

    /// The stream has already had the event's id. Reads the stored message to see whether it is the same event.
    async fn recognised(
        &self,
        envelope: &Envelope,
        Receipt { stream, seq, .. }: Receipt,
    ) -> Result<EventId, PublishError> {
        let event = envelope.id();
        match self.bus.holder(&stream, seq, envelope.into()).await {
            Ok(Holder::Other(holder)) => Err(PublishError::DuplicateId { event, holder }),
            Ok(Holder::Same | Holder::Nothing) => Ok(event),
            Err(error) => {
                tracing::warn!(event.id = %event, stream, sequence = seq, %error,
                    "duplicate publish unverified: the stream already has the event id, possibly of another event");
                Ok(event)
            }
        }
    }
}

/// Refuses an event that the server would refuse, before it is written anywhere.
pub(crate) fn check_size(
    envelope: &Envelope,
    defaults: wire::Defaults<'_>,
    max_payload: usize,
) -> Result<(), TooLarge> {
    let at_most = wire::header_bytes_at_most(envelope, defaults);
    if at_most <= wire::MAX_HEADER_BYTES && at_most + envelope.payload().len() <= max_payload {
        return Ok(());
    }
    let headers = wire::header_bytes(envelope, defaults);
    let total = headers + envelope.payload().len();
    let too_large = |part, bytes, limit| TooLarge {
        name: envelope.name().to_string(),
        part,
        bytes,
        limit,
    };
    if headers > wire::MAX_HEADER_BYTES {
        return Err(too_large(HEADERS, headers, wire::MAX_HEADER_BYTES));
    }
    if total > max_payload {
        return Err(too_large("headers and payload", total, max_payload));
    }
    Ok(())
}
