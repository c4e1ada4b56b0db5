//! The metrics of the semantic conventions for messaging, version 1.44. Never a span, and never the key of an event.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    metrics::{Counter, Histogram, MeterProvider},
};
use tidings::{
    Envelope,
    observer::{Attempt, StoredBatch},
};

use crate::attributes;

/// The bounds in seconds that the conventions advise.
const BOUNDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// The instruments.
pub(crate) struct Metrics {
    sent: Counter<u64>,
    consumed: Counter<u64>,
    operation: Histogram<f64>,
    process: Histogram<f64>,
}

impl Metrics {
    pub(crate) fn new(provider: &impl MeterProvider, scope: InstrumentationScope) -> Self {
        let meter = provider.meter_with_scope(scope);
        let counter =
            |name: &'static str, what: &'static str| meter.u64_counter(name).with_description(what);
        let histogram = |name: &'static str, what: &'static str| {
            let histogram = meter.f64_histogram(name).with_description(what);
            histogram.with_unit("s").with_boundaries(BOUNDS.to_vec())
        };
        Self {
            sent: counter(
                "messaging.client.sent.messages",
                "Number of messages a producer attempted to send to the broker.",
            )
            .with_unit("{message}")
            .build(),
            consumed: counter(
                "messaging.client.consumed.messages",
                "Number of messages that were delivered to the application.",
            )
            .with_unit("{message}")
            .build(),
            operation: histogram(
                "messaging.client.operation.duration",
                "Duration of a messaging operation that a client initiated.",
            )
            .build(),
            process: histogram(
                "messaging.process.duration",
                "Duration of processing an operation.",
            )
            .build(),
        }
    }

    /// A publisher begins to send an event.
    pub(crate) fn sending(self: &Arc<Self>, event: &Envelope) -> Measured {
        Measured {
            metrics: Arc::clone(self),
            is_send: true,
            attributes: attributes::operation("send", event),
            began: Instant::now(),
        }
    }

    /// The relay has sent events, or has found them in the stream.
    pub(crate) fn stored(&self, batch: &StoredBatch<'_>) {
        let (Some(sent_at), Some(first)) = (batch.sent_at, batch.events.first()) else {
            return;
        };
        let events = batch.events.iter().map(|stored| stored.event);
        each_name(events, |event, count| {
            self.sent.add(count, &attributes::operation("send", event));
        });
        let took = SystemTime::now().duration_since(sent_at);
        let mut operation = attributes::operation("send", first.event);
        // A batch has events of many names.
        operation.retain(|attribute| attribute.key.as_str() != attributes::DESTINATION);
        let took = took.unwrap_or_default().as_secs_f64();
        self.operation.record(took, &operation);
    }

    /// A handler is called.
    pub(crate) fn processing(self: &Arc<Self>, attempt: &Attempt<'_>) -> Option<Measured> {
        let first = attempt.deliveries.first()?.event;
        let of = |event: &Envelope| {
            let mut attributes = attributes::operation("process", event);
            let group = attempt.subscriber.to_owned();
            attributes.push(KeyValue::new(attributes::GROUP, group));
            attributes
        };
        let events = attempt.deliveries.iter().map(|delivered| delivered.event);
        each_name(events, |event, count| self.consumed.add(count, &of(event)));
        Some(Measured {
            metrics: Arc::clone(self),
            is_send: false,
            attributes: of(first),
            began: Instant::now(),
        })
    }
}

/// Calls with each run of events of one name, and its length.
fn each_name<'a>(
    mut events: impl Iterator<Item = &'a Envelope>,
    mut call: impl FnMut(&Envelope, u64),
) {
    let Some(mut first) = events.next() else {
        return;
    };
    let mut count = 1;
    for event in events {
        if event.name() == first.name() {
            count += 1;
            continue;
        }
        call(first, count);
        (first, count) = (event, 1);
    }
    call(first, count);
}

/// A send or a call of a handler that has begun. Nothing is recorded when it is dropped.
pub(crate) struct Measured {
    metrics: Arc<Metrics>,
    is_send: bool,
    attributes: Vec<KeyValue>,
    began: Instant,
}

impl Measured {
    pub(crate) fn end(mut self, error: Option<&'static str>) {
        let took = self.began.elapsed().as_secs_f64();
        let error = error.map(|error| KeyValue::new(attributes::ERROR_TYPE, error));
        self.attributes.extend(error);
        let metrics = &self.metrics;
        if self.is_send {
            metrics.sent.add(1, &self.attributes);
            metrics.operation.record(took, &self.attributes);
        } else {
            metrics.process.record(took, &self.attributes);
        }
    }
}
