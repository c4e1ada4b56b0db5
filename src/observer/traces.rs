//! The seam for traces: where an event gets the context of its trace, where it is stored, and where it is handled. Never
//! makes a trace itself, and never decides anything about an event.

use std::{
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use chrono::{DateTime, Utc};
use tidings_contract::{Envelope, Lineage, Traceparent};

use crate::replay::tag::ReplayId;

/// Gives events the context of their trace, and sees them stored and handled. Every method does nothing unless it is
/// implemented. `tidings-otel` implements it for OpenTelemetry.
///
/// The methods are called between two steps of the work, so they return at once, and do not panic.
///
/// ```
/// use tidings::{Envelope, observer::{self, TraceContext, TraceObserver}};
///
/// /// Every event belongs to one trace.
/// struct OneTrace;
///
/// impl TraceObserver for OneTrace {
///     fn created(&self, _: &Envelope) -> Option<TraceContext> {
///         let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
///         Some(TraceContext::new(traceparent, None))
///     }
/// }
///
/// observer::install(OneTrace)?;
/// # Ok::<(), observer::InstalledError>(())
/// ```
pub trait TraceObserver: Send + Sync + 'static {
    /// An event is being written into an outbox, by `publish`, `enqueue` or a statement of
    /// [`Enqueue`](crate::Enqueue). Returns the context that it is stored with. Not called for an event that has a
    /// context already.
    fn created(&self, event: &Envelope) -> Option<TraceContext> {
        let _ = event;
        None
    }

    /// An [`EventPublisher`](crate::EventPublisher) begins to send an event. The event is sent with the context of what
    /// is returned, unless it has one already.
    fn sending(&self, event: &Envelope) -> Option<Box<dyn Sending>> {
        let _ = event;
        None
    }

    /// A stream has confirmed events that the relay has sent, or has found there.
    fn stored(&self, batch: &StoredBatch<'_>) {
        let _ = batch;
    }

    /// The server is about to be told the outcome of an event. What is returned is dropped without a call of
    /// [`ended`](Settling::ended) when the worker stops first.
    fn settling(&self, settlement: &Settlement<'_>) -> Option<Box<dyn Settling>> {
        let _ = settlement;
        None
    }

    /// A handler is about to be called.
    fn attempt(&self, attempt: &Attempt<'_>) -> Option<Box<dyn AttemptScope>> {
        let _ = attempt;
        None
    }
}

/// The W3C trace context of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceContext {
    /// `traceparent`.
    pub traceparent: String,
    /// `tracestate`.
    pub tracestate: Option<String>,
}

/// One event on its way from a publisher to its stream.
pub trait Sending: Send {
    /// The context that the event is sent with.
    fn context(&self) -> Option<TraceContext>;

    /// The stream has stored the event, or the event was refused, for an error of this kind: a fixed word. When the
    /// future of the publisher is dropped, this is not called.
    fn ended(self: Box<Self>, error: Option<&'static str>);
}

/// The time in which the server is told the outcome of an event.
pub trait Settling: Send {
    /// The server has confirmed it, or has not at any of the tries.
    fn ended(self: Box<Self>, is_confirmed: bool);
}

/// The time around one call of a handler. It is dropped without a call of [`ended`](AttemptScope::ended) when the worker
/// stops first, and the event is handed back.
pub trait AttemptScope: Send {
    /// Runs a step of the call: decoding, or a poll of the handler's future. What the handler publishes meanwhile, and
    /// what it logs, belongs to the call. Calls `step` once, on the same thread.
    fn step(&mut self, step: &mut dyn FnMut()) {
        step();
    }

    /// The context of the call, whose trace id the lines of the log get. `None`: that of the event.
    fn context(&self) -> Option<TraceContext> {
        None
    }

    /// The call has ended.
    fn ended(self: Box<Self>, end: &AttemptEnd);
}

/// A call of a handler.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Attempt<'a> {
    /// The subscriber's durable name.
    pub subscriber: &'a str,
    /// The events, at least one; more than one for batch handlers alone.
    pub deliveries: &'a [Delivered<'a>],
    /// Whether a batch handler is called, with any number of events.
    pub is_batch: bool,
}

/// The outcome of an event that the server is told: an acknowledgement, an event stored in `RETRIES`, a dead letter.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Settlement<'a> {
    /// The subscriber's durable name.
    pub subscriber: &'a str,
    /// The event.
    pub delivered: Delivered<'a>,
    /// `ack`, `duplicate`, `retry`, `defer` or `reject`.
    pub outcome: &'static str,
}

/// An event that a handler is called with.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Delivered<'a> {
    /// The event.
    pub event: &'a Envelope,
    /// The stream that first stored it.
    pub stream: &'a str,
    /// Its sequence there.
    pub sequence: u64,
    /// When it was stored there.
    pub stored_at: DateTime<Utc>,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// When the first attempt failed, if one has.
    pub first_failed_at: Option<DateTime<Utc>>,
    /// How often it was redriven.
    pub redrives: u32,
    /// The replay that the delivery is part of.
    pub replay: Option<ReplayId>,
}

/// How a call of a handler has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttemptEnd {
    /// The outcome of the event: `ack`, `duplicate`, `retry`, `defer` or `reject`; for a batch `ack`, when no event has
    /// failed. `None` when it is not decided by this call alone.
    pub outcome: Option<&'static str>,
    /// How many events have failed.
    pub failed: usize,
    /// The kind of the first failure: `retry`, `rejected`, `timeout`, `panic`, `unavailable`, `undecodable`, `unknown`,
    /// `outside-inbox` or `undecided`.
    pub error: Option<&'static str>,
}

/// Events that one stream has stored.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct StoredBatch<'a> {
    /// The stream.
    pub stream: &'a str,
    /// The events, in the order in which they were sent.
    pub events: &'a [Stored<'a>],
    /// When the relay has sent them. `None` when an earlier relay has, and this one has found them in the stream.
    pub sent_at: Option<SystemTime>,
}

/// An event that a stream has stored.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Stored<'a> {
    /// The event.
    pub event: &'a Envelope,
    /// When it was written into the outbox, or was due, by the clock of the database.
    pub written_at: DateTime<Utc>,
    /// Its sequence in the stream.
    pub sequence: u64,
}

/// There is an observer already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a trace observer is installed already: a process has one")]
#[non_exhaustive]
pub struct InstalledError;

static INSTALLED: OnceLock<Arc<dyn TraceObserver>> = OnceLock::new();

/// Installs the observer of this process. Events are created all over an application, so each outbox, publisher and
/// worker of the process uses it. Install it before the first event is created; without one, nothing is observed, and
/// an event costs one more load from memory.
///
/// # Errors
/// [`InstalledError`] when there is one already.
pub fn install(observer: impl TraceObserver) -> Result<(), InstalledError> {
    INSTALLED
        .set(Arc::new(observer))
        .map_err(|_| InstalledError)
}

/// The observer of this process.
pub(crate) fn installed() -> Option<&'static dyn TraceObserver> {
    INSTALLED.get().map(|observer| &**observer)
}

/// Gives an event the context of what creates it, unless it has one.
pub(crate) fn with_context(envelope: Envelope) -> Envelope {
    match installed() {
        Some(observer) if envelope.lineage().traceparent.is_none() => {
            let context = observer.created(&envelope);
            with(envelope, context)
        }
        _ => envelope,
    }
}

/// Gives an event a context, unless it has one. Both parts are taken, or none.
pub(crate) fn with(envelope: Envelope, context: Option<TraceContext>) -> Envelope {
    let Some(context) = context else {
        return envelope;
    };
    let mut lineage = Lineage::default();
    lineage.traceparent = Some(context.traceparent);
    lineage.tracestate = context.tracestate;
    envelope.inherit(&lineage)
}

impl TraceContext {
    /// A context with these headers; an empty `tracestate` is none.
    #[must_use]
    pub fn new(traceparent: impl Into<String>, tracestate: Option<String>) -> Self {
        Self {
            traceparent: traceparent.into(),
            tracestate: tracestate.filter(|state| !state.is_empty()),
        }
    }

    /// The id of the trace, if `traceparent` is valid.
    #[must_use]
    pub fn trace_id(&self) -> Option<&str> {
        Traceparent::parse(&self.traceparent).map(|parts| parts.trace_id)
    }

    /// The id of the span, if `traceparent` is valid.
    #[must_use]
    pub fn span_id(&self) -> Option<&str> {
        Traceparent::parse(&self.traceparent).map(|parts| parts.span_id)
    }

    /// The context of an event, if it has a valid one.
    #[must_use]
    pub fn of(event: &Envelope) -> Option<Self> {
        let lineage = event.lineage();
        lineage.trace_id()?;
        let traceparent = lineage.traceparent.clone()?;
        Some(Self::new(traceparent, lineage.tracestate.clone()))
    }
}

impl AttemptEnd {
    pub(crate) const fn new(
        outcome: Option<&'static str>,
        failed: usize,
        error: Option<&'static str>,
    ) -> Self {
        Self {
            outcome,
            failed,
            error,
        }
    }
}
