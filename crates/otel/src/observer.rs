//! The observer that makes spans: which span, of which kind, with which parent and links. Never decides when.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use chrono::Utc;
use opentelemetry::{
    Context, InstrumentationScope, KeyValue,
    metrics::MeterProvider,
    trace::{
        Link, Span, SpanBuilder, SpanContext, SpanKind, TraceContextExt, Tracer, TracerProvider,
    },
};
use tidings::{
    Envelope,
    observer::{
        self, Attempt, AttemptScope, Delivered, InstalledError, Sending, Settlement, Settling,
        Stored, StoredBatch, TraceContext, TraceObserver,
    },
};

use crate::{
    Join,
    attempt::Process,
    attributes::{self, Keys},
    context::{creation_context, current, headers},
    join::Moments,
    metrics::Metrics,
    requests::{Sent, Settled},
};

/// The most links of a span: what an SDK keeps unless it is told otherwise.
const MOST_LINKS: usize = 128;

/// Makes the spans of events with a tracer. See [`observer()`].
pub struct Observer<T> {
    tracer: T,
    join: Join,
    join_within: Duration,
    creates: bool,
    settles: bool,
    keys: Keys,
    metrics: Option<Arc<Metrics>>,
}

/// An observer that makes spans with a tracer of this provider. It does nothing before it is
/// [installed](Observer::install).
///
/// ```
/// use std::time::Duration;
/// use opentelemetry_sdk::trace::SdkTracerProvider;
/// use tidings_otel::Join;
///
/// let provider = SdkTracerProvider::builder().build(); // with an exporter
/// let observer = tidings_otel::observer(&provider)
///     .join(Join::Auto)
///     .join_within(Duration::from_secs(60));
/// observer.install()?;
/// # Ok::<(), tidings::observer::InstalledError>(())
/// ```
#[must_use]
pub fn observer<P>(provider: &P) -> Observer<P::Tracer>
where
    P: TracerProvider,
    P::Tracer: Send + Sync + 'static,
    <P::Tracer as Tracer>::Span: Send + Sync + 'static,
{
    Observer {
        tracer: provider.tracer_with_scope(scope()),
        join: Join::Auto,
        join_within: Duration::from_secs(5 * 60),
        creates: false,
        settles: false,
        keys: Keys::Nothing,
        metrics: None,
    }
}

/// Who makes spans and metrics, and by which version of the conventions.
fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("tidings")
        .with_version(env!("CARGO_PKG_VERSION"))
        .with_schema_url("https://opentelemetry.io/schemas/1.44.0")
        .build()
}

impl<T> Observer<T>
where
    T: Tracer + Send + Sync + 'static,
    T::Span: Send + Sync + 'static,
{
    /// Sets whether handling an event belongs to the trace that created it; default [`Join::Auto`].
    #[must_use]
    pub fn join(mut self, join: Join) -> Self {
        self.join = join;
        self
    }

    /// Sets how old an event may be to be prompt; default five minutes.
    #[must_use]
    pub fn join_within(mut self, age: Duration) -> Self {
        self.join_within = age;
        self
    }

    /// Makes a span `create user.created` for each event that is written into an outbox. By default there is none, and
    /// the current span is what created the event.
    #[must_use]
    pub fn create_spans(mut self) -> Self {
        self.creates = true;
        self
    }

    /// Makes a span `settle user.created` for each outcome that the server is told: the acknowledgement, the event that
    /// is stored in `RETRIES`, the dead letter, until the server has confirmed it. By default there is none.
    #[must_use]
    pub fn settle_spans(mut self) -> Self {
        self.settles = true;
        self
    }

    /// Adds the keys of events to the spans, as `tidings.key`. A key often identifies a person.
    #[must_use]
    pub fn with_keys(mut self) -> Self {
        self.keys = Keys::Plain;
        self
    }

    /// Adds a hash of the keys of events to the spans, as `tidings.key.hash`: 16 digits of SHA-256 over this secret and
    /// the key. Equal keys have equal hashes in each process that has the same secret, so that the spans of one key are
    /// found without the key. Without the secret a hash says nothing; with it, a key that can be guessed can be
    /// confirmed.
    #[must_use]
    pub fn with_hashed_keys(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.keys = Keys::hashed(secret.as_ref());
        self
    }

    /// Also records the metrics of the semantic conventions for messaging, version 1.44:
    /// `messaging.client.sent.messages`, `messaging.client.operation.duration`, `messaging.client.consumed.messages` and
    /// `messaging.process.duration`. They count all events, whether their traces are sampled or not. By default there
    /// are none; [`tidings::ops`](https://docs.rs/tidings/latest/tidings/ops/metrics/index.html) has metrics for
    /// Prometheus, which say more.
    ///
    /// ```
    /// use opentelemetry_sdk::{metrics::SdkMeterProvider, trace::SdkTracerProvider};
    ///
    /// let spans = SdkTracerProvider::builder().build(); // with an exporter
    /// let metrics = SdkMeterProvider::builder().build(); // with a reader
    /// tidings_otel::observer(&spans).with_metrics(&metrics).install()?;
    /// # Ok::<(), tidings::observer::InstalledError>(())
    /// ```
    #[must_use]
    pub fn with_metrics(mut self, provider: &impl MeterProvider) -> Self {
        self.metrics = Some(Arc::new(Metrics::new(provider, scope())));
        self
    }

    /// Makes the spans of all events of this process from now on.
    ///
    /// # Errors
    /// [`InstalledError`] when there is an observer already.
    pub fn install(self) -> Result<(), InstalledError> {
        observer::install(self)
    }

    fn span_of(
        &self,
        operation: &'static str,
        kind: SpanKind,
        event: &Envelope,
        more: impl IntoIterator<Item = KeyValue>,
    ) -> SpanBuilder {
        let attributes = attributes::operation(operation, event);
        let attributes = attributes.into_iter();
        let attributes = attributes.chain(attributes::event(event, &self.keys));
        SpanBuilder::from_name(attributes::name(operation, event))
            .with_kind(kind)
            .with_attributes(attributes.chain(more))
    }

    /// The span of an event that the relay has sent, from its commit to now.
    fn sent(&self, batch: &StoredBatch<'_>, stored: &Stored<'_>, creator: SpanContext) {
        let now = SystemTime::now();
        // The clock of the database may be ahead.
        let began = SystemTime::from(stored.written_at).min(now);
        let mut more = attributes::position(batch.stream, stored.sequence).to_vec();
        let wait = batch.sent_at.map(|sent| sent.duration_since(began));
        match wait {
            Some(wait) => {
                let wait = wait.unwrap_or_default().as_millis();
                let wait = i64::try_from(wait).unwrap_or(i64::MAX);
                more.push(KeyValue::new(attributes::WAIT, wait));
            }
            None => more.push(KeyValue::new(attributes::FOUND, true)),
        }
        if batch.events.len() > 1 {
            let events = attributes::count(batch.events.len());
            more.push(KeyValue::new(attributes::MESSAGE_COUNT, events));
        }
        let span = self.span_of("send", SpanKind::Client, stored.event, more);
        let parent = Context::new().with_remote_span_context(creator);
        let mut span = self
            .tracer
            .build_with_context(span.with_start_time(began), &parent);
        span.end_with_timestamp(now);
    }

    /// The span of a call with one event.
    fn process_one(&self, attempt: &Attempt<'_>, one: &Delivered<'_>) -> (SpanBuilder, Context) {
        let mut more = attributes::position(one.stream, one.sequence).to_vec();
        let group = attempt.subscriber.to_owned();
        more.push(KeyValue::new(attributes::GROUP, group));
        more.push(KeyValue::new(attributes::ATTEMPT, i64::from(one.attempt)));
        if one.redrives > 0 {
            more.push(KeyValue::new(attributes::REDRIVES, i64::from(one.redrives)));
        }
        if let Some(replay) = one.replay {
            more.push(KeyValue::new(attributes::REPLAY, replay.to_string()));
        }
        if attempt.is_batch {
            more.push(KeyValue::new(attributes::MESSAGE_COUNT, 1_i64));
        }
        let span = self.span_of("process", SpanKind::Consumer, one.event, more);
        self.related(span, one, !attempt.is_batch)
    }

    /// A span with a link to what created its event, and its parent: that too, when the event is prompt.
    fn related(
        &self,
        span: SpanBuilder,
        one: &Delivered<'_>,
        is_alone: bool,
    ) -> (SpanBuilder, Context) {
        let Some(creator) = creation_context(one.event) else {
            return (span, Context::new());
        };
        let is_child = match self.join {
            Join::Auto => is_alone && Moments::of(one, Utc::now()).are_prompt(self.join_within),
            Join::Parent => true,
            Join::Link => false,
        };
        let span = span.with_links(vec![Link::with_context(creator.clone())]);
        let parent = match is_child {
            true => Context::new().with_remote_span_context(creator),
            false => Context::new(),
        };
        (span, parent)
    }

    /// The span of a call with several events. They belong to several traces, so it has a trace of its own.
    fn process_many(&self, attempt: &Attempt<'_>, first: &Envelope) -> SpanBuilder {
        let deliveries = attempt.deliveries;
        let links = deliveries.iter().filter_map(|one| {
            let id = KeyValue::new(attributes::MESSAGE_ID, one.event.id().to_string());
            Some(Link::new(creation_context(one.event)?, vec![id], 0))
        });
        let events = attributes::count(deliveries.len());
        let mut more = attributes::operation("process", first);
        let group = attempt.subscriber.to_owned();
        more.push(KeyValue::new(attributes::GROUP, group));
        more.push(KeyValue::new(attributes::MESSAGE_COUNT, events));
        if let Some(replay) = deliveries.first().and_then(|one| one.replay) {
            more.push(KeyValue::new(attributes::REPLAY, replay.to_string()));
        }
        SpanBuilder::from_name(attributes::name("process", first))
            .with_kind(SpanKind::Consumer)
            .with_attributes(more)
            .with_links(links.take(MOST_LINKS).collect())
    }
}

impl<T> TraceObserver for Observer<T>
where
    T: Tracer + Send + Sync + 'static,
    T::Span: Send + Sync + 'static,
{
    fn created(&self, event: &Envelope) -> Option<TraceContext> {
        if !self.creates {
            return current();
        }
        let span = self.span_of("create", SpanKind::Producer, event, []);
        let mut span = self.tracer.build(span);
        let context = headers(span.span_context());
        span.end();
        context
    }

    fn sending(&self, event: &Envelope) -> Option<Box<dyn Sending>> {
        let span = self.span_of("send", SpanKind::Producer, event, []);
        let creator = creation_context(event).map(Link::with_context);
        let span = span.with_links(creator.into_iter().collect());
        Some(Box::new(Sent {
            measured: self.metrics.as_ref().map(|metrics| metrics.sending(event)),
            span: self.tracer.build(span),
        }))
    }

    fn stored(&self, batch: &StoredBatch<'_>) {
        if let Some(metrics) = &self.metrics {
            metrics.stored(batch);
        }
        for stored in batch.events {
            let creator = creation_context(stored.event);
            if let Some(creator) = creator.filter(SpanContext::is_sampled) {
                self.sent(batch, stored, creator);
            }
        }
    }

    fn settling(&self, settlement: &Settlement<'_>) -> Option<Box<dyn Settling>> {
        if !self.settles {
            return None;
        }
        let one = &settlement.delivered;
        let mut more = attributes::position(one.stream, one.sequence).to_vec();
        let group = settlement.subscriber.to_owned();
        more.push(KeyValue::new(attributes::GROUP, group));
        more.push(KeyValue::new(attributes::OUTCOME, settlement.outcome));
        let span = self.span_of("settle", SpanKind::Client, one.event, more);
        let (span, parent) = self.related(span, one, true);
        Some(Box::new(Settled(
            self.tracer.build_with_context(span, &parent),
        )))
    }

    fn attempt(&self, attempt: &Attempt<'_>) -> Option<Box<dyn AttemptScope>> {
        let (span, parent) = match attempt.deliveries {
            [] => return None,
            [one] => self.process_one(attempt, one),
            [first, ..] => (self.process_many(attempt, first.event), Context::new()),
        };
        let span = self.tracer.build_with_context(span, &parent);
        let metrics = self.metrics.as_ref();
        let measured = metrics.and_then(|metrics| metrics.processing(attempt));
        Some(Box::new(Process::new(parent.with_span(span), measured)))
    }
}

impl<T> fmt::Debug for Observer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer")
            .field("join", &self.join)
            .field("join_within", &self.join_within)
            .field("create_spans", &self.creates)
            .field("settle_spans", &self.settles)
            .field("metrics", &self.metrics.is_some())
            .finish_non_exhaustive()
    }
}
