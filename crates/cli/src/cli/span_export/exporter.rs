//! Takes spans from the queue and has the receiver take them, in batches. What the receiver cannot take now is sent
//! again, while the queue fills; what it refuses is lost.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use bytes::Bytes;
use opentelemetry_proto::{
    tonic::collector::trace::v1::ExportTraceServiceRequest,
    transform::{
        common::tonic::ResourceAttributesWithSchema,
        trace::tonic::group_spans_by_resource_and_scope,
    },
};
use opentelemetry_sdk::{Resource, trace::SpanData};
use prost::Message;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    issue::ExportIssue,
    queue::Spans,
    receiver::{ExportError, Receiver},
};

/// The most spans of a request.
const BATCH: usize = 512;
/// How long a span waits for others.
const LINGER: Duration = Duration::from_secs(1);
/// The pause before a batch is sent again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long sending what waits may take at the end.
const FLUSH: Duration = Duration::from_secs(5);

pub(super) struct Exporter {
    spans: Spans,
    receiver: Receiver,
    resource: ResourceAttributesWithSchema,
    issue: ExportIssue,
    /// Taken from the queue, and not encoded yet.
    gathered: Vec<SpanData>,
    /// Encoded, and neither sent nor lost.
    batch: Option<Batch>,
    stop: CancellationToken,
}

/// Encoded spans.
struct Batch {
    body: Bytes,
    spans: u64,
}

impl Exporter {
    pub(super) fn new(
        spans: Spans,
        receiver: Receiver,
        resource: &Resource,
        stop: CancellationToken,
    ) -> Self {
        Self {
            spans,
            receiver,
            resource: resource.into(),
            issue: ExportIssue::default(),
            gathered: Vec::new(),
            batch: None,
            stop,
        }
    }

    /// Sends spans until it is stopped, and then what waits.
    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        let _stopped = stop.run_until_cancelled(self.export()).await;
        let flushed = timeout(FLUSH, self.flush()).await;
        let unsent = self.unsent();
        if unsent > 0 {
            let endpoint = self.receiver.endpoint();
            let in_time = flushed.is_ok();
            tracing::warn!(%endpoint, lost = unsent, in_time, "spans lost at the end");
        }
    }

    /// Sends spans, without end. It can be dropped anywhere: what is not sent stays.
    async fn export(&mut self) {
        while self.gather().await {
            self.encode();
            let mut pause = FIRST_PAUSE;
            while !self.send().await {
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            self.tell_dropped();
        }
    }

    /// Waits for a span, and a little for others. Returns whether there are any.
    async fn gather(&mut self) -> bool {
        self.spans.some(&mut self.gathered, BATCH).await;
        let mut linger = pin!(sleep(LINGER));
        while !self.gathered.is_empty() && self.gathered.len() < BATCH {
            let room = BATCH - self.gathered.len();
            tokio::select! {
                () = &mut linger => break,
                added = self.spans.some(&mut self.gathered, room) => if added == 0 { break },
            }
        }
        !self.gathered.is_empty()
    }

    /// Tries once. Returns whether the batch is done with: sent or refused.
    async fn send(&mut self) -> bool {
        let Some(batch) = &self.batch else {
            return true;
        };
        let sent = self.receiver.send(batch.body.clone()).await;
        let spans = batch.spans;
        let is_done = !sent.as_ref().is_err_and(ExportError::is_temporary);
        if is_done {
            self.batch = None;
        }
        match sent {
            Ok(0) => self.tell_over(),
            Ok(refused) => {
                self.issue.lost(refused);
                self.tell("the receiver has refused some of the spans");
            }
            Err(error) => {
                self.issue.lost(if is_done { spans } else { 0 });
                self.tell(&error.text());
            }
        }
        is_done
    }

    /// Sends what waits, each batch once.
    async fn flush(&mut self) {
        while self.send().await {
            self.spans.waiting(&mut self.gathered, BATCH);
            if self.gathered.is_empty() {
                return;
            }
            self.encode();
        }
    }

    /// Makes a batch of what was gathered.
    fn encode(&mut self) {
        let gathered = std::mem::take(&mut self.gathered);
        let spans = gathered.len() as u64;
        let request = ExportTraceServiceRequest {
            resource_spans: group_spans_by_resource_and_scope(gathered, &self.resource),
        };
        self.batch = Some(Batch {
            body: request.encode_to_vec().into(),
            spans,
        });
    }

    fn tell(&mut self, why: &str) {
        self.issue.lost(self.spans.take_dropped());
        if let Some(lost) = self.issue.again(Instant::now()) {
            let endpoint = self.receiver.endpoint();
            tracing::warn!(%endpoint, lost, error = why, "spans not exported: events are relayed all the same");
        }
    }

    fn tell_over(&mut self) {
        if let Some(lost) = self.issue.is_over() {
            let endpoint = self.receiver.endpoint();
            tracing::info!(%endpoint, lost, "spans exported again");
        }
    }

    /// More spans were made than the receiver takes.
    fn tell_dropped(&mut self) {
        let dropped = self.spans.take_dropped();
        if dropped > 0 {
            self.issue.lost(dropped);
            self.tell("more spans than can be sent: sample fewer traces");
        }
    }

    /// How many spans are lost at the end, or were lost and not told.
    fn unsent(&mut self) -> u64 {
        let waiting = self.spans.left() + self.gathered.len() as u64;
        let batch = self.batch.as_ref().map_or(0, |batch| batch.spans);
        self.issue.untold() + self.spans.take_dropped() + waiting + batch
    }
}
