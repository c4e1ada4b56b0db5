//! The queue between the relay and the exporter: bounded, and never waited for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use opentelemetry::Context;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanProcessor},
};
use tokio::sync::mpsc;

/// How many spans may wait: as many as the SDK lets wait. They take a few megabytes.
const CAPACITY: usize = 2048;

/// The end that takes spans. It drops those that do not fit, and counts them.
#[derive(Debug)]
pub(in crate::cli) struct Queue {
    spans: mpsc::Sender<SpanData>,
    dropped: Arc<AtomicU64>,
}

/// The end that gives the spans.
pub(in crate::cli) struct Spans {
    spans: mpsc::Receiver<SpanData>,
    dropped: Arc<AtomicU64>,
}

/// A queue for spans that have ended.
pub(in crate::cli) fn queue() -> (Queue, Spans) {
    let (sender, receiver) = mpsc::channel(CAPACITY);
    let dropped = Arc::new(AtomicU64::new(0));
    let queue = Queue {
        spans: sender,
        dropped: Arc::clone(&dropped),
    };
    let spans = Spans {
        spans: receiver,
        dropped,
    };
    (queue, spans)
}

impl Spans {
    /// Waits for spans, and adds at most `limit`; none when no more can come.
    pub(in crate::cli) async fn some(&mut self, to: &mut Vec<SpanData>, limit: usize) -> usize {
        self.spans.recv_many(to, limit).await
    }

    /// Adds at most `limit` spans that wait already.
    pub(super) fn waiting(&mut self, to: &mut Vec<SpanData>, limit: usize) {
        while to.len() < limit
            && let Ok(span) = self.spans.try_recv()
        {
            to.push(span);
        }
    }

    /// How many spans wait.
    pub(super) fn left(&self) -> u64 {
        self.spans.len() as u64
    }

    /// How many spans were dropped since the last call.
    pub(super) fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The exporter does that, when the relay has ended.
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Tracer, TracerProvider};
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;

    #[tokio::test]
    async fn a_full_queue_drops_spans_and_counts_them() {
        let (queue, mut spans) = queue();
        let provider = SdkTracerProvider::builder().with_span_processor(queue);
        let tracer = provider.build().tracer("a test");
        for _ in 0..CAPACITY + 3 {
            tracer.in_span("a span", |_| ());
        }
        assert_eq!(spans.take_dropped(), 3);
        assert_eq!(spans.take_dropped(), 0);
        let mut taken = Vec::new();
        assert_eq!(spans.some(&mut taken, 10).await, 10);
        spans.waiting(&mut taken, CAPACITY * 2);
        assert_eq!(taken.len(), CAPACITY);
    }
}
