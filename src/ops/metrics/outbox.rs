//! The figures of outboxes, looked up in the background because of a scrape, and not again within two seconds. Never
//! keeps figures that it could not renew.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use tokio::{runtime::Handle, sync::watch};

use super::{
    Asks, families as is,
    look::{Found, Looked},
    process::{Issues, timestamp},
    sheet::{Label, Sheet},
};
use crate::{
    outbox::{Outbox, OutboxError, Status, Store, preflight::Measured},
    policy::issue_kind::IssueKind,
    preflight::nearer,
};

/// The least time between two looks.
const LEAST: Duration = Duration::from_secs(2);
/// How much longer the pause after a look is than the look: a slow database is asked less often.
const PAUSE: u32 = 10;
/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often the sizes of the tables are read at most.
const SIZES: Duration = Duration::from_secs(60);
/// How old figures may be that no scrape has requested.
const STALE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Outboxes {
    all: Mutex<Vec<Arc<Watched>>>,
    errors: Arc<AtomicU64>,
}

struct Watched {
    outbox: Label,
    look: Box<dyn Look>,
    /// Where the connections of its pool live.
    runtime: Option<Handle>,
    errors: Arc<AtomicU64>,
    known: Mutex<Known>,
    sizes: Arc<Looked<Measured>>,
    /// Changes when a look has ended.
    ended: watch::Sender<()>,
}

#[derive(Default)]
struct Known {
    figures: Option<Figures>,
    /// When the last look ended, and how long it took.
    last: Option<(Instant, Duration)>,
    is_looking: bool,
}

/// What a look has found.
enum Figures {
    Status(Box<Status>),
    /// The tables are of another version.
    Refuses(IssueKind),
}

/// An outbox in either database.
trait Look: Send + Sync {
    fn figures(&self) -> BoxFuture<'_, Result<Status, OutboxError>>;
    fn enqueued(&self) -> u64;
    /// The sizes of the tables.
    fn measured(&self) -> BoxFuture<'static, Result<Measured, OutboxError>>;
}

impl<DB: Store> Look for Outbox<DB> {
    fn figures(&self) -> BoxFuture<'_, Result<Status, OutboxError>> {
        async {
            self.check_version().await?;
            Outbox::figures(self).await
        }
        .boxed()
    }

    fn enqueued(&self) -> u64 {
        Outbox::enqueued(self)
    }

    fn measured(&self) -> BoxFuture<'static, Result<Measured, OutboxError>> {
        let outbox = self.clone();
        async move { outbox.measure().await }.boxed()
    }
}

impl Outboxes {
    /// Adds an outbox. One schema has one set of series.
    pub(super) fn add<DB: Store>(&self, outbox: &Outbox<DB>) {
        self.watch(outbox.schema(), Box::new(outbox.clone()));
    }

    fn watch(&self, outbox: &str, look: Box<dyn Look>) {
        let new = Arc::new(Watched {
            outbox: outbox.into(),
            look,
            runtime: Handle::try_current().ok(),
            errors: Arc::clone(&self.errors),
            known: Mutex::default(),
            sizes: Looked::every(SIZES),
            ended: watch::Sender::new(()),
        });
        let mut all = self.all();
        all.retain(|known| known.outbox != new.outbox);
        all.push(new);
    }

    /// Begins the looks that are due; returns their ends.
    pub(super) fn renew(&self) -> Vec<BoxFuture<'static, ()>> {
        let mut ends = Vec::new();
        for outbox in &*self.all() {
            let mut ended = outbox.ended.subscribe();
            if outbox.renew() {
                let end = async move {
                    // An error says that the outbox was replaced.
                    let _ = ended.changed().await;
                };
                ends.push(end.boxed());
            }
            ends.extend(outbox.renew_sizes());
        }
        ends
    }

    pub(super) fn write(&self, asks: Asks, issues: &mut Issues, sheet: &mut Sheet) {
        let all = self.all();
        if !all.is_empty() {
            let of_sizes = all.iter().map(|outbox| outbox.sizes.errors());
            let errors = self.errors.load(Relaxed) + of_sizes.sum::<u64>();
            sheet.count(&is::SCRAPE_ERRORS, [&"outbox".into()], errors);
        }
        let mut ahead = None;
        for outbox in &*all {
            ahead = nearer(ahead, outbox.write(asks, issues, sheet));
        }
        if let Some(ahead) = ahead {
            sheet.gauge(&is::CLOCK_OFFSET, [&"database".into()], ahead);
        }
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<Watched>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    /// Begins a look, unless the last one is recent. Returns whether one runs.
    fn renew(self: &Arc<Self>) -> bool {
        let mut known = self.known();
        let is_due = known
            .last
            .is_none_or(|(at, took)| at.elapsed() >= LEAST.max(took * PAUSE));
        if known.is_looking || !is_due {
            return known.is_looking;
        }
        let Some(runtime) = self.runtime.clone().or_else(|| Handle::try_current().ok()) else {
            return false;
        };
        known.is_looking = true;
        drop(known);
        let looking = Looking(Arc::clone(self), Instant::now());
        runtime.spawn(looking.run());
        true
    }

    /// Begins a look at the sizes, unless the last one is recent; returns the end of the one that runs.
    fn renew_sizes(&self) -> Option<BoxFuture<'static, ()>> {
        let runtime = self
            .runtime
            .clone()
            .or_else(|| Handle::try_current().ok())?;
        let outbox = Arc::clone(&self.outbox);
        self.sizes.renew(&runtime, || {
            let look = self.look.measured();
            async move {
                let looked = tokio::time::timeout(PATIENCE, look).await;
                let looked = looked.map_err(|_| None).and_then(|read| read.map_err(Some));
                if let Err(error) = &looked {
                    tracing::debug!(outbox = &*outbox, ?error, "sizes of the outbox unavailable");
                }
                Found::of(looked)
            }
        })
    }

    /// Returns by how much the clock of the database is ahead.
    fn write(&self, asks: Asks, issues: &mut Issues, sheet: &mut Sheet) -> Option<f64> {
        let of = &self.outbox;
        sheet.count(&is::ENQUEUED, [of], self.look.enqueued());
        if asks == Asks::NoDatabase {
            return None;
        }
        let mut ahead = None;
        self.sizes.read(|measured| {
            write_sizes(of, measured, sheet);
            ahead = measured.ahead_s;
        });
        let known = self.known();
        match &known.figures {
            Some(_) if known.last.is_none_or(|(at, _)| at.elapsed() > STALE) => {}
            Some(Figures::Status(status)) => write_status(of, status, issues, sheet),
            Some(Figures::Refuses(reason)) => {
                sheet.gauge(&is::REFUSES, [of, &reason.as_str().into()], 1.0);
            }
            None => {}
        }
        ahead
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A look, which ends also when its runtime does.
struct Looking(Arc<Watched>, Instant);

impl Looking {
    async fn run(self) {
        let looked = tokio::time::timeout(PATIENCE, self.0.look.figures()).await;
        let figures = match looked {
            Ok(Ok(status)) => Some(Figures::Status(Box::new(status))),
            Ok(Err(OutboxError::Version { is_newer, .. })) => {
                Some(Figures::Refuses(match is_newer {
                    true => IssueKind::SchemaNewer,
                    false => IssueKind::SchemaOlder,
                }))
            }
            Ok(Err(OutboxError::NotMigrated(_))) => Some(Figures::Refuses(IssueKind::NotMigrated)),
            Ok(Err(error)) => {
                tracing::debug!(outbox = &*self.0.outbox, %error, "outbox metrics unavailable");
                None
            }
            Err(_) => {
                tracing::debug!(outbox = &*self.0.outbox, "outbox metrics timed out");
                None
            }
        };
        if figures.is_none() {
            self.0.errors.fetch_add(1, Relaxed);
        }
        self.0.known().figures = figures;
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        let mut known = self.0.known();
        known.is_looking = false;
        known.last = Some((Instant::now(), self.1.elapsed()));
        drop(known);
        self.0.ended.send_replace(());
    }
}

#[allow(clippy::cast_precision_loss)] // bytes
pub(super) fn write_sizes(of: &Label, measured: &Measured, sheet: &mut Sheet) {
    for (table, bytes) in &measured.tables {
        let labels = [of, &table.as_str().into()];
        sheet.gauge(&is::OUTBOX_STORAGE, labels, *bytes as f64);
    }
}

#[allow(clippy::cast_precision_loss)] // counts of rows
pub(super) fn write_status(of: &Label, status: &Status, issues: &mut Issues, sheet: &mut Sheet) {
    let overdue = status.next_due_seconds.map_or(0.0, |wait| (-wait).max(0.0));
    let held = status.held_slots.iter().filter_map(|held| held.age_seconds);
    for (family, value) in [
        (&is::BACKLOG, status.backlog as f64),
        (
            &is::OLDEST,
            status.oldest_unpublished_seconds.unwrap_or(0.0),
        ),
        (&is::LEASE_REMAINING, status.lease.remaining_seconds),
        (&is::LEASE_EPOCH, status.lease.epoch as f64),
        (&is::DELAYED, status.delayed as f64),
        (&is::DELAYED_OVERDUE, overdue),
        (&is::HELD, held.fold(0.0, f64::max)),
    ] {
        sheet.gauge(family, [of], value);
    }
    for (blocked_on, events) in [
        ("decision", status.undecided),
        ("restore", status.returning),
    ] {
        let labels = [of, &blocked_on.into()];
        sheet.gauge(&is::OUTBOX_PARKED, labels, events as f64);
    }
    if let Some(last) = &status.last_batch {
        sheet.gauge(&is::CONFIRMED_AT, [of], timestamp(last.at));
    }
    if status.refuses.is_some() {
        let reason = status.refuses_as.as_str().into();
        sheet.gauge(&is::REFUSES, [of, &reason], 1.0);
    }
    for issue in &status.issues {
        issues.add(of, &issue.place, issue.kind, issue.since);
    }
    for loss in &status.losses {
        let labels = [
            of,
            &loss.stream.as_str().into(),
            &loss.state.kind().as_str().into(),
        ];
        sheet.gauge(&is::STREAM_LOSS, labels, 1.0);
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;

    /// A database that answers when it is let to.
    struct Fake {
        looks: AtomicU64,
        answers: tokio::sync::Semaphore,
        is_broken: bool,
    }

    impl Default for Fake {
        fn default() -> Self {
            Self {
                looks: AtomicU64::new(0),
                answers: tokio::sync::Semaphore::new(0),
                is_broken: false,
            }
        }
    }

    impl Look for Arc<Fake> {
        fn figures(&self) -> BoxFuture<'_, Result<Status, OutboxError>> {
            async {
                self.looks.fetch_add(1, Relaxed);
                let _answers = self.answers.acquire().await.unwrap();
                match self.is_broken {
                    true => Err(OutboxError::Database(sqlx::Error::PoolTimedOut.into())),
                    false => Ok(Status::default()),
                }
            }
            .boxed()
        }

        fn enqueued(&self) -> u64 {
            7
        }

        fn measured(&self) -> BoxFuture<'static, Result<Measured, OutboxError>> {
            async { Ok(Measured::default()) }.boxed()
        }
    }

    fn watched(fake: &Arc<Fake>) -> Outboxes {
        let outboxes = Outboxes::default();
        outboxes.watch("shop", Box::new(Arc::clone(fake)));
        outboxes
    }

    fn text(outboxes: &Outboxes) -> String {
        let (mut issues, mut sheet) = (Issues::default(), Sheet::default());
        outboxes.write(Asks::Everything, &mut issues, &mut sheet);
        format!("{sheet:?}")
    }

    #[tokio::test]
    async fn many_scrapes_look_once() {
        let fake = Arc::new(Fake::default());
        let outboxes = watched(&fake);
        let scrapes = join_all((0..100).flat_map(|_| outboxes.renew()));
        let (_, ()) = futures::join!(scrapes, async { fake.answers.add_permits(100) });
        for _ in 0..100 {
            join_all(outboxes.renew()).await;
        }
        assert_eq!(fake.looks.load(Relaxed), 1);
        assert!(text(&outboxes).contains("tidings_outbox_backlog_events"));
    }

    #[tokio::test]
    async fn a_failed_look_counts_and_leaves_the_figures_out() {
        let fake = Arc::new(Fake {
            answers: tokio::sync::Semaphore::new(9),
            is_broken: true,
            ..Fake::default()
        });
        let outboxes = watched(&fake);
        join_all(outboxes.renew()).await;
        assert_eq!(outboxes.errors.load(Relaxed), 1);
        let text = text(&outboxes);
        assert!(!text.contains("tidings_outbox_backlog_events"), "{text}");
        assert!(
            text.contains("tidings_outbox_enqueued_events_total"),
            "{text}"
        );
    }

    /// The pause is ten times as long as the look.
    #[tokio::test]
    async fn a_slow_database_is_asked_less_often() {
        let fake = Arc::new(Fake::default());
        let outboxes = watched(&fake);
        let outbox = Arc::clone(&outboxes.all()[0]);
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds));
        outbox.known().last = ago(5).map(|at| (at, Duration::from_secs(1)));
        assert!(!outbox.renew(), "it took a second, 5 s ago");
        outbox.known().last = ago(5).map(|at| (at, Duration::from_millis(400)));
        assert!(outbox.renew(), "it took 0.4 s");
    }
}
