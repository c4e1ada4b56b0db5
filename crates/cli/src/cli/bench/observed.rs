//! What is observed while a job runs: metrics, and traces whose spans are dropped instead of sent. The limit is never
//! observed, so that the ratio shows what observing costs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tidings::{Bus, Outbox, Relay, Worker, ops::metrics::Metrics, outbox::Store};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::report::Report;
use crate::cli::span_export::{self, Spans};

/// The most spans that are taken at once, as an exporter takes them.
const BATCH: usize = 512;
/// How often metrics are scraped.
const SCRAPE: Duration = Duration::from_secs(1);

/// What is observed.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(super) struct ObserveOptions {
    /// Run the job with metrics, which are scraped once a second
    #[arg(long)]
    observed: bool,
    /// Run the job with traces, this share of which is sampled, from 0 to 1. Spans are made, and dropped instead of sent
    #[arg(long, value_name = "SHARE", value_parser = share)]
    traces: Option<f64>,
}

/// What observes the jobs of this process.
pub(super) struct Observed {
    metrics: Option<(Metrics, AbortOnDropHandle<()>)>,
    traces: Option<Traced>,
}

struct Traced {
    share: f64,
    /// How many spans were made and taken.
    spans: Arc<AtomicUsize>,
    _taking: AbortOnDropHandle<()>,
}

fn share(text: &str) -> Result<f64, &'static str> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("write a share from 0 to 1, such as 0.01"),
    }
}

impl Observed {
    /// Begins to observe what happens in this process.
    ///
    /// # Errors
    /// When it is observed already.
    pub(super) fn begin<DB: Store>(
        options: ObserveOptions,
        outbox: &Outbox<DB>,
    ) -> anyhow::Result<Self> {
        let metrics = options.observed.then(|| {
            let metrics = Metrics::new();
            metrics.outbox(outbox);
            let scraping = tokio::spawn(scrape(metrics.clone()));
            (metrics, AbortOnDropHandle::new(scraping))
        });
        let traces = options.traces.map(Traced::begin).transpose()?;
        Ok(Self { metrics, traces })
    }

    /// A worker whose metrics are recorded, if any are.
    pub(super) fn worker<S: Send + Sync + 'static>(&self, worker: Worker<S>) -> Worker<S> {
        match &self.metrics {
            Some((metrics, _)) => worker.with(metrics.clone()),
            None => worker,
        }
    }

    /// Runs a relay until it is stopped, and records its metrics, if any are recorded.
    pub(super) fn relay<DB: Store>(
        &self,
        relay: Relay<DB>,
        bus: Bus,
        stop: CancellationToken,
    ) -> impl Future<Output = anyhow::Result<()>> + Send + use<DB> {
        let metrics = self.metrics.as_ref().map(|(metrics, _)| metrics.clone());
        async move {
            let Some(metrics) = metrics else {
                return Ok(relay.run(bus, stop).await?);
            };
            let worker = Worker::new(bus, ()).with(relay).with(metrics);
            Ok(worker.run(stop.cancelled()).await?)
        }
    }

    /// Adds what was observed.
    pub(super) fn report(&self, mut report: Report) -> Report {
        if self.metrics.is_some() {
            report = report.figure("observed", true);
        }
        if let Some(traces) = &self.traces {
            let spans = traces.spans.load(Ordering::Relaxed);
            report = report
                .figure("traces_share", traces.share)
                .figure("spans", spans);
        }
        report
    }
}

impl Traced {
    fn begin(share: f64) -> anyhow::Result<Self> {
        let (queue, spans) = span_export::queue();
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share)));
        let provider = SdkTracerProvider::builder()
            .with_span_processor(queue)
            .with_sampler(sampler)
            .build();
        // The events of a job have no request that creates them: this gives each a context.
        let observer = tidings_otel::observer(&provider).create_spans();
        observer.install().context("the job is traced already")?;
        let taken = Arc::new(AtomicUsize::new(0));
        let taking = tokio::spawn(take(spans, Arc::clone(&taken)));
        Ok(Self {
            share,
            spans: taken,
            _taking: AbortOnDropHandle::new(taking),
        })
    }
}

async fn take(mut spans: Spans, taken: Arc<AtomicUsize>) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let more = spans.some(&mut batch, BATCH).await;
        taken.fetch_add(more, Ordering::Relaxed);
        if more == 0 {
            return;
        }
        batch.clear();
    }
}

async fn scrape(metrics: Metrics) {
    loop {
        tokio::time::sleep(SCRAPE).await;
        metrics.scrape(None).await;
    }
}
