//! Work that may be ended by another future. Never decides what follows.

use std::{
    pin::{Pin, pin},
    task::Poll,
};

/// Waits for work, unless `end` completes first. Work that is ready at once does not create `end`, which costs as much
/// as a short handler. The work is not polled twice in a row: that would hide an await.
pub(crate) async fn unless<T, E: Future<Output = ()>>(
    mut work: Pin<&mut impl Future<Output = T>>,
    end: impl FnOnce() -> E,
) -> Option<T> {
    if let Poll::Ready(done) = futures::poll!(work.as_mut()) {
        return Some(done);
    }
    let mut end = pin!(end());
    let mut was_polled = true;
    std::future::poll_fn(|cx| {
        if !std::mem::take(&mut was_polled)
            && let Poll::Ready(done) = work.as_mut().poll(cx)
        {
            return Poll::Ready(Some(done));
        }
        end.as_mut().poll(cx).map(|()| None)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::{poll_fn, ready};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn work_that_is_ready_at_once_ignores_its_end() {
        let work = pin!(async { 1 });
        let done = unless(work, || -> std::future::Ready<()> { panic!("looked") }).await;
        assert_eq!(done, Some(1));
    }

    #[tokio::test]
    async fn work_that_is_ready_later_comes_before_its_end() {
        let (begun, end) = (Notify::new(), Notify::new());
        let work = pin!(async {
            begun.notified().await;
            2
        });
        let waiting = unless(work, || end.notified());
        let both = async {
            tokio::task::yield_now().await;
            end.notify_one();
            begun.notify_one();
        };
        assert_eq!(futures::join!(waiting, both).0, Some(2));
    }

    #[tokio::test]
    async fn an_end_that_is_reached_stops_work_after_one_poll() {
        let mut polls = 0;
        let work = pin!(poll_fn(|_| -> Poll<()> {
            polls += 1;
            Poll::Pending
        }));
        assert_eq!(unless(work, || ready(())).await, None);
        assert_eq!(polls, 1);
    }
}
