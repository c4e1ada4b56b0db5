//! Metrics for Prometheus: of the subscribers and the relay of this process, and of its outboxes. Never asks NATS or a
//! database because of a scrape more often than every two seconds.
//!
//! All metrics, with type and labels, are listed in `docs/reference/metrics.md`.

mod accept;
mod counts;
mod families;
mod histogram;
mod look;
mod nats;
#[cfg(feature = "outbox")]
mod outbox;
mod process;
mod relay;
mod route;
mod sheet;
mod subscriber;
mod trace_id;

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use prometheus_client::{
    collector::Collector,
    encoding::{self, DescriptorEncoder},
    registry::Registry,
};
use tokio_util::sync::CancellationToken;

pub use prometheus_client;

use crate::{background::Background, nats::Bus, process::Process};
use accept::Format;
use counts::Counts;
use families as is;
use nats::Nats;
use sheet::Sheet;

/// How long a scrape waits for looks.
const WAIT: Duration = Duration::from_secs(1);

/// The metrics of a process. Cheap to clone; the clones share the counts.
///
/// Give it to the [`Worker`](crate::Worker) of the process, or a clone to each of several, and name the outboxes that it
/// writes to. The metrics can be
/// encoded, or added to a registry of the application.
///
/// ```
/// use tidings::ops::metrics::{Metrics, prometheus_client::registry::Registry};
///
/// let metrics = Metrics::new();
/// // Worker::new(bus, state).with(metrics.clone()), and metrics.outbox(&outbox)
/// let (content_type, text) = metrics.encode(Some("application/openmetrics-text"));
/// assert!(content_type.starts_with("application/openmetrics-text"));
/// assert!(text.contains("tidings_build_info"));
///
/// let mut registry = Registry::default();
/// registry.register_collector(Box::new(metrics));
/// ```
#[derive(Clone, Default)]
pub struct Metrics(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Separate, because a process owns its observers.
    counts: Arc<Counts>,
    processes: Mutex<Vec<Process>>,
    /// Of the workers that run this.
    nats: Mutex<Vec<Arc<Nats>>>,
    #[cfg(feature = "outbox")]
    outboxes: outbox::Outboxes,
}

impl Metrics {
    /// Metrics of nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the figures of an outbox, and counts the events that this process writes to it through this [`Outbox`] and
    /// its clones. Call it on the runtime that the pool of the outbox belongs to.
    ///
    /// The figures cost a query that counts the backlog. A scrape causes it, at most once in two seconds for each
    /// outbox, and less often when the query takes longer than 0.2 s.
    ///
    /// [`Outbox`]: crate::Outbox
    #[cfg(feature = "outbox")]
    pub fn outbox<DB: crate::outbox::Store>(&self, outbox: &crate::Outbox<DB>) {
        self.0.outboxes.add(outbox);
    }

    /// Returns the content type and the metrics for a scraper that accepts this: OpenMetrics, which has exemplars, or
    /// Prometheus text 0.0.4. The figures of the outboxes are those of the last look, which this may cause to be
    /// renewed for the next scrape; [`Metrics::scrape`] waits for them.
    #[must_use]
    pub fn encode(&self, accept: Option<&str>) -> (&'static str, String) {
        drop(self.renew(Asks::Everything));
        self.encoded(accept, Asks::Everything)
    }

    /// As [`Metrics::encode`], with figures of the outboxes that are at most two seconds old, of the streams ten, and of
    /// the storage a minute, if the servers answer within a second.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn scrape(&self, accept: Option<&str>) -> (&'static str, String) {
        self.scraped(accept, Asks::Everything).await
    }

    async fn scraped(&self, accept: Option<&str>, asks: Asks) -> (&'static str, String) {
        let ends = self.renew(asks);
        // What takes longer is shown at the next scrape.
        let _ = tokio::time::timeout(WAIT, join_all(ends)).await;
        self.encoded(accept, asks)
    }

    /// Begins the looks that are due; returns their ends.
    fn renew(&self, asks: Asks) -> Vec<BoxFuture<'static, ()>> {
        let mut used: BTreeSet<String> = self.0.counts.streams();
        for process in &*self.processes() {
            used.extend(process.streams());
        }
        let mut ends = Vec::new();
        // The servers and the account are the same for all.
        let nats = self.nats().first().cloned();
        if let Some(nats) = nats {
            ends.extend(nats.renew(used));
        }
        #[cfg(feature = "outbox")]
        if asks == Asks::Everything {
            ends.extend(self.0.outboxes.renew());
        }
        #[cfg(not(feature = "outbox"))]
        let _ = asks;
        ends
    }

    fn encoded(&self, accept: Option<&str>, asks: Asks) -> (&'static str, String) {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Scrape(self.clone(), asks)));
        let format = Format::wanted(accept);
        let mut text = String::new();
        let encoded = match format {
            Format::OpenMetrics => encoding::text::encode(&mut text, &registry),
            Format::Text => encoding::prometheus_text::encode(&mut text, &registry),
        };
        // A string takes everything.
        encoded.unwrap_or_default();
        (format.content_type(), text)
    }

    /// Observes a process, and shows what runs in it.
    pub(crate) fn observe(&self, process: &Process) {
        process.observe(Arc::clone(&self.0.counts) as _);
        self.processes().push(process.clone());
    }

    fn nats(&self) -> MutexGuard<'_, Vec<Arc<Nats>>> {
        self.0.nats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn processes(&self) -> MutexGuard<'_, Vec<Process>> {
        self.0
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn sheet(&self, asks: Asks) -> Sheet {
        let mut sheet = Sheet::default();
        let version = env!("CARGO_PKG_VERSION").into();
        sheet.gauge(&is::BUILD_INFO, [&version], 1.0);
        let nats = self.nats().first().cloned();
        if let Some(nats) = nats {
            nats.write(&mut sheet);
        }
        self.0.counts.write(&mut sheet);
        let mut issues = process::Issues::default();
        let figures: Vec<_> = self.processes().iter().map(Process::figures).collect();
        process::write_connections(&figures, &mut sheet);
        for figures in &figures {
            process::write(figures, &mut issues, &mut sheet);
        }
        if figures.len() > 1 {
            sheet.merge();
        }
        #[cfg(feature = "outbox")]
        self.0.outboxes.write(asks, &mut issues, &mut sheet);
        #[cfg(not(feature = "outbox"))]
        let _ = asks;
        issues.write(&mut sheet);
        sheet
    }
}

/// What a scrape asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    Everything,
    /// Nothing that a database has to be asked for.
    NoDatabase,
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.sheet(Asks::Everything).encode(encoder)
    }
}

/// One scrape of the metrics.
#[derive(Debug)]
struct Scrape(Metrics, Asks);

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.sheet(self.1).encode(encoder)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Looks through the connection of a worker, until it is dropped.
struct Shown {
    nats: Arc<Nats>,
    metrics: Metrics,
}

impl Shown {
    fn through(bus: Bus, metrics: &Metrics) -> Self {
        let nats = Arc::new(Nats::new(bus));
        metrics.nats().push(Arc::clone(&nats));
        let metrics = metrics.clone();
        Self { nats, metrics }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let mut all = self.metrics.nats();
        all.retain(|one| !Arc::ptr_eq(one, &self.nats));
    }
}

/// Observes the worker for as long as it runs.
impl Background for Metrics {
    fn name(&self) -> String {
        "metrics".to_owned()
    }

    fn join(&mut self, process: &Process) {
        self.observe(process);
    }

    fn run(
        self: Box<Self>,
        bus: Bus,
        stop: CancellationToken,
    ) -> BoxFuture<'static, Result<(), Box<dyn std::error::Error + Send + Sync>>> {
        async move {
            let _shown = Shown::through(bus, &self);
            stop.cancelled().await;
            Ok(())
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
