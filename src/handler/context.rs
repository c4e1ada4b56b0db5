//! What a handler receives with the event. It owns nothing that outlives the delivery.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tidings_contract::{Envelope, EventId, Headers};
use tokio_util::sync::CancellationToken;

use crate::{
    observer::traces,
    replay::tag::{Count, ReplayId, Replaying},
};

/// What a handler receives with the event: the application's state, and the facts of the delivery.
///
/// Cheap to clone.
pub struct Context<S> {
    state: Arc<S>,
    delivery: Arc<Facts>,
}

/// The facts of one delivery.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) envelope: Arc<Envelope>,
    pub(crate) subscriber: Arc<str>,
    pub(crate) stream: Arc<str>,
    pub(crate) sequence: u64,
    /// When the stream stored the message.
    pub(crate) stored_at: DateTime<Utc>,
    pub(crate) attempt: u32,
    /// When the first attempt failed, if one has.
    pub(crate) first_failed_at: Option<DateTime<Utc>>,
    /// How often the event was redriven.
    #[cfg_attr(not(feature = "outbox"), allow(dead_code))]
    // read by the inbox
    pub(crate) redrives: u32,
    /// The dead letter that it was last redriven from.
    #[cfg_attr(not(feature = "outbox"), allow(dead_code))]
    // read by the inbox
    pub(crate) redriven_from: u64,
    /// How long the handler may take.
    pub(crate) timeout: Duration,
    pub(crate) cancelled: Cancelled,
    /// The replay that the delivery is part of.
    pub(crate) replay: Option<Arc<Replaying>>,
}

/// When a handler should stop. Most handlers never use it, so the token is created on first use.
#[derive(Debug)]
pub(crate) struct Cancelled {
    halt: CancellationToken,
    own: OnceLock<CancellationToken>,
}

impl Cancelled {
    /// Cancelled when the worker halts, or on its own.
    pub(crate) fn by(halt: &CancellationToken) -> Self {
        Self {
            halt: halt.clone(),
            own: OnceLock::new(),
        }
    }

    pub(crate) fn token(&self) -> &CancellationToken {
        self.own.get_or_init(|| self.halt.child_token())
    }
}

tokio::task_local! {
    /// The delivery whose handler is running. What the handler publishes inherits the lineage from it, without the
    /// handler passing it on.
    static HANDLING: Arc<Facts>;
    /// The replay whose batch is being handled. A batch has no lineage.
    static REPLAYING: Arc<Replaying>;
}

impl<S> Context<S> {
    pub(crate) fn new(state: Arc<S>, delivery: Arc<Facts>) -> Self {
        Self { state, delivery }
    }

    pub(crate) fn shared_state(&self) -> &Arc<S> {
        &self.state
    }

    pub(crate) fn facts(&self) -> &Arc<Facts> {
        &self.delivery
    }

    /// The state that the worker was created with.
    #[must_use]
    pub fn state(&self) -> &S {
        &self.state
    }

    /// The event's id. It is the same at every delivery, so it can make an effect idempotent.
    #[must_use]
    pub fn event_id(&self) -> EventId {
        self.delivery.envelope.id()
    }

    /// The event's name, such as `user.created`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.delivery.envelope.name().as_str()
    }

    /// The version of the payload; 0 when a foreign publisher did not state one.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.delivery.envelope.version()
    }

    /// The event's key: what the event is about.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.delivery.envelope.key()
    }

    /// When the fact happened, if its publisher stated it.
    #[must_use]
    pub fn time(&self) -> Option<DateTime<Utc>> {
        self.delivery.envelope.time()
    }

    /// When the stream stored the event, by the server's clock.
    #[must_use]
    pub fn stored_at(&self) -> DateTime<Utc> {
        self.delivery.stored_at
    }

    /// The number of this attempt, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.delivery.attempt
    }

    /// The application's own headers.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        self.delivery.envelope.headers()
    }

    /// A CloudEvents extension of the event, such as `tenant` for the header `ce-tenant`.
    #[must_use]
    pub fn extension(&self, name: &str) -> Option<&str> {
        self.delivery.envelope.extensions().get(name)
    }

    /// The id of the conversation that the event belongs to.
    #[must_use]
    pub fn correlation_id(&self) -> String {
        self.delivery.envelope.correlation_id()
    }

    /// The whole envelope, including the payload as it was received.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.delivery.envelope
    }

    /// The subscriber's durable name.
    #[must_use]
    pub fn subscriber(&self) -> &str {
        &self.delivery.subscriber
    }

    /// The stream and the sequence of the message that carries the event.
    #[must_use]
    pub fn stream_position(&self) -> (&str, u64) {
        (&self.delivery.stream, self.delivery.sequence)
    }

    /// Whether the event is handled again on purpose, as part of a replay. A handler checks this before an effect that
    /// must not happen twice, such as sending a mail. To leave out a handler as a whole, use
    /// [`skip_on_replay`](crate::EventSubscriber::skip_on_replay).
    #[must_use]
    pub fn is_replay(&self) -> bool {
        self.delivery.replay.is_some()
    }

    /// The replay that the delivery is part of, if any.
    #[must_use]
    pub fn replay_id(&self) -> Option<ReplayId> {
        self.delivery.replay_id()
    }

    /// Cancelled when the handler should stop: its timeout has passed, or the shutdown timeout has passed. After that
    /// the handler is dropped at its next await.
    #[must_use]
    pub fn cancelled(&self) -> &CancellationToken {
        self.delivery.cancelled.token()
    }
}

impl Facts {
    pub(crate) fn replay_id(&self) -> Option<ReplayId> {
        self.replay.as_ref().map(|replay| replay.tag.id)
    }
}

impl<S> Clone for Context<S> {
    fn clone(&self) -> Self {
        Self {
            state: Arc::clone(&self.state),
            delivery: Arc::clone(&self.delivery),
        }
    }
}

impl<S> std::fmt::Debug for Context<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("delivery", &self.delivery)
            .finish_non_exhaustive()
    }
}

/// Runs a handler so that what it publishes inherits the delivery's lineage.
pub(crate) async fn handling<T>(delivery: Arc<Facts>, handler: impl Future<Output = T>) -> T {
    HANDLING.scope(delivery, handler).await
}

/// Runs a batch handler, whose batch may be part of a replay.
pub(crate) async fn replaying<T>(
    replay: Option<&Arc<Replaying>>,
    handler: impl Future<Output = T>,
) -> T {
    match replay {
        Some(replay) => REPLAYING.scope(Arc::clone(replay), handler).await,
        None => handler.await,
    }
}

/// Whether this many events, published or cancelled by the current handler, are suppressed, because the original
/// handling has already published or cancelled them. Suppressed events are counted.
pub(crate) fn suppresses(events: usize) -> bool {
    let suppressed = |replay: &Arc<Replaying>| {
        let is_suppressed = !replay.tag.follow_ups;
        if is_suppressed {
            replay.counters.add(Count::Suppressed, events as u64);
        }
        is_suppressed
    };
    let of_one = HANDLING.try_with(|facts| facts.replay.as_ref().is_some_and(suppressed));
    let of_batch = || REPLAYING.try_with(suppressed).unwrap_or(false);
    of_one.unwrap_or(false) || of_batch()
}

/// Whether events that the current handler publishes are suppressed. Counts nothing.
pub(crate) fn is_suppressing() -> bool {
    let suppresses = |replay: &Arc<Replaying>| !replay.tag.follow_ups;
    let of_one = HANDLING.try_with(|facts| facts.replay.as_ref().is_some_and(suppresses));
    of_one.unwrap_or(false) || REPLAYING.try_with(suppresses).unwrap_or(false)
}

/// Sets the lineage of an event that is being created: the context of the trace that creates it, if traces are made;
/// the rest, inside a handler, from the event that is handled.
pub(crate) fn inherit(envelope: Envelope) -> Envelope {
    descend(traces::with_context(envelope))
}

/// Sets the lineage of an event that is published inside a handler; outside a handler the event is unchanged.
pub(crate) fn descend(envelope: Envelope) -> Envelope {
    match HANDLING.try_with(|delivery| delivery.envelope.descent()) {
        Ok(descent) => envelope.inherit(&descent),
        Err(_) => envelope,
    }
}
