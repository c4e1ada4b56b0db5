//! Notices that work takes long, without a timer for each piece of work. Never ends the work.
//!
//! A timer that is registered and dropped for each statement wakes the thread that waits for timers, twice: measured as
//! two futex calls and a context switch for each transaction, a tenth of its processor time.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

/// The time between two ticks: how much later than asked for it is noticed.
const TICK: Duration = Duration::from_millis(100);
/// After so many ticks without a listener, the ticking ends.
const IDLE: u32 = 50;

/// One task ticks for all that wait, while any of them does. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ticks(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    ticks: watch::Sender<()>,
    is_ticking: AtomicBool,
}

/// Lets a listener begin the ticking again when the runtime of the task ends.
struct Ticking {
    inner: Arc<Inner>,
    has_ended: bool,
}

impl Ticks {
    /// Waits for work; `None` when it takes longer than this, and up to a tick more.
    pub(crate) async fn within<T>(
        &self,
        time: Duration,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        let Self(inner) = self;
        let mut ticks = inner.ticks.subscribe();
        Ticking::ensure(inner);
        let began = Instant::now();
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                // The sender lives as long as `self`.
                _ = ticks.changed() => {
                    if began.elapsed() >= time {
                        return None;
                    }
                    // The runtime of the task may have ended.
                    Ticking::ensure(inner);
                }
            }
        }
    }
}

impl Ticking {
    /// Begins the ticking on this runtime, unless another task ticks.
    fn ensure(inner: &Arc<Inner>) {
        if !inner.is_ticking.swap(true, Ordering::SeqCst) {
            let inner = Arc::clone(inner);
            let has_ended = false;
            tokio::spawn(Self { inner, has_ended }.run());
        }
    }

    async fn run(mut self) {
        let mut idle = 0;
        loop {
            sleep(TICK).await;
            if self.inner.ticks.receiver_count() > 0 {
                self.inner.ticks.send_replace(());
                idle = 0;
                continue;
            }
            idle += 1;
            if idle < IDLE {
                continue;
            }
            self.inner.is_ticking.store(false, Ordering::SeqCst);
            // One that has begun to listen meanwhile may have found the ticking under way.
            let is_heard = self.inner.ticks.receiver_count() > 0;
            if !is_heard || self.inner.is_ticking.swap(true, Ordering::SeqCst) {
                self.has_ended = true;
                return;
            }
        }
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        if !self.has_ended {
            self.inner.is_ticking.store(false, Ordering::SeqCst);
            // A listener on another runtime begins it again.
            self.inner.ticks.send_replace(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::future;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn long_work_is_reported_and_continues() {
        let ticks = Ticks::default();
        let second = Duration::from_secs(1);
        let mut work = pin!(async {
            sleep(second * 5).await;
            7
        });
        let began = Instant::now();
        assert_eq!(ticks.within(second, work.as_mut()).await, None);
        assert!((second..second + TICK * 2).contains(&began.elapsed()));
        assert_eq!(ticks.within(second * 9, work).await, Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn ticking_ends_when_idle_and_begins_again() {
        let ticks = Ticks::default();
        for _ in 0..3 {
            let never = pin!(future::pending::<()>());
            assert_eq!(ticks.within(TICK, never).await, None);
            sleep(TICK * (IDLE + 2)).await;
            assert!(!ticks.0.is_ticking.load(Ordering::SeqCst));
        }
    }

    #[test]
    fn a_listener_outlives_the_runtime_that_ticks() {
        let runtime = || {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_time()
                .build()
                .unwrap()
        };
        let (first, second) = (runtime(), runtime());
        let ticks = Ticks::default();
        let listen = |time| {
            let ticks = ticks.clone();
            async move { ticks.within(time, pin!(future::pending::<()>())).await }
        };
        first.block_on(listen(TICK));
        let other = second.spawn(listen(TICK * 5));
        drop(first);
        let ended = second.block_on(async { tokio::time::timeout(TICK * 100, other).await });
        assert_eq!(ended.unwrap().unwrap(), None);
    }

    #[test]
    fn ticking_begins_again_in_another_runtime() {
        let ticks = Ticks::default();
        for _ in 0..2 {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap();
            runtime.block_on(async {
                let never = pin!(future::pending::<()>());
                assert_eq!(ticks.within(TICK, never).await, None);
            });
        }
    }
}
