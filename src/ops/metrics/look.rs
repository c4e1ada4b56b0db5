//! A look at a server that all scrapers share: a scrape begins it in the background, and not again within a pause.
//! Never keeps what it could not renew.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use tokio::{runtime::Handle, sync::watch};

/// How much older than the pause figures may be that no scrape has renewed.
const STALE: Duration = Duration::from_secs(60);

pub(super) struct Looked<T> {
    /// The least time from the end of a look to the next one.
    pause: Duration,
    known: Mutex<Known<T>>,
    errors: AtomicU64,
    /// Changes when a look has ended.
    ended: watch::Sender<()>,
}

struct Known<T> {
    found: Option<T>,
    /// When the last look ended.
    last: Option<Instant>,
    is_looking: bool,
}

/// What a look brings back.
pub(super) struct Found<T> {
    /// `None` when nothing could be read.
    pub(super) figures: Option<T>,
    /// How many reads have failed.
    pub(super) failed: u64,
}

impl<T> Found<T> {
    pub(super) fn of<E>(read: Result<T, E>) -> Self {
        Self {
            failed: u64::from(read.is_err()),
            figures: read.ok(),
        }
    }
}

impl<T: Send + 'static> Looked<T> {
    pub(super) fn every(pause: Duration) -> Arc<Self> {
        Arc::new(Self {
            pause,
            known: Mutex::new(Known {
                found: None,
                last: None,
                is_looking: false,
            }),
            errors: AtomicU64::new(0),
            ended: watch::Sender::new(()),
        })
    }

    /// Begins a look, unless the last one is recent. Returns the end of the one that runs.
    pub(super) fn renew<F>(
        self: &Arc<Self>,
        runtime: &Handle,
        look: impl FnOnce() -> F,
    ) -> Option<BoxFuture<'static, ()>>
    where
        F: Future<Output = Found<T>> + Send + 'static,
    {
        let mut ended = self.ended.subscribe();
        let mut known = self.known();
        let is_due = known.last.is_none_or(|at| at.elapsed() >= self.pause);
        if !known.is_looking {
            if !is_due {
                return None;
            }
            known.is_looking = true;
            drop(known);
            let (looking, look) = (Looking(Arc::clone(self)), look());
            runtime.spawn(async move {
                let found = look.await;
                looking.0.errors.fetch_add(found.failed, Relaxed);
                looking.0.known().found = found.figures;
            });
        }
        let end = async move {
            // An error says that the metrics are gone.
            let _ = ended.changed().await;
        };
        Some(end.boxed())
    }

    /// Shows the figures, unless they are old.
    pub(super) fn read(&self, show: impl FnOnce(&T)) {
        let known = self.known();
        let is_recent = known
            .last
            .is_some_and(|at| at.elapsed() <= self.pause + STALE);
        if let Some(found) = known.found.as_ref().filter(|_| is_recent) {
            show(found);
        }
    }

    /// How many reads have failed.
    pub(super) fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }

    fn known(&self) -> MutexGuard<'_, Known<T>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A look, which ends also when its runtime does.
struct Looking<T: Send + 'static>(Arc<Looked<T>>);

impl<T: Send + 'static> Drop for Looking<T> {
    fn drop(&mut self) {
        let mut known = self.0.known();
        known.is_looking = false;
        known.last = Some(Instant::now());
        drop(known);
        self.0.ended.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_look_serves_all_scrapes_of_its_pause() {
        let looked = Looked::every(Duration::from_secs(10));
        let looks = Arc::new(AtomicU64::new(0));
        let look = || {
            let looks = Arc::clone(&looks);
            async move {
                looks.fetch_add(1, Relaxed);
                Found::of(Ok::<_, ()>(7))
            }
        };
        let runtime = Handle::current();
        let ends: Vec<_> = (0..100)
            .filter_map(|_| looked.renew(&runtime, look))
            .collect();
        assert_eq!(ends.len(), 100, "each waits for the one look");
        futures::future::join_all(ends).await;
        assert!(looked.renew(&runtime, look).is_none(), "it is recent");
        assert_eq!(looks.load(Relaxed), 1);
        let mut seen = 0;
        looked.read(|found| seen = *found);
        assert_eq!(seen, 7);
    }

    #[tokio::test]
    async fn a_failed_look_counts_and_leaves_the_figures_out() {
        let looked = Looked::every(Duration::ZERO);
        let runtime = Handle::current();
        for read in [Ok(7), Err(())] {
            let end = looked.renew(&runtime, || async move { Found::of(read) });
            end.unwrap().await;
        }
        assert_eq!(looked.errors(), 1);
        looked.read(|found: &i32| panic!("{found} is shown"));
    }
}
