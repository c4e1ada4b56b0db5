//! Yielding to the tasks that are ready. Never decides what is done after that.

use std::task::Poll;

/// Ends once the tasks that are ready have run. A task that collects items from many tasks calls it before it collects:
/// a woken task runs directly after the task that woke it, before the other tasks can add their items. Measured:
/// acknowledgements that were sent without it went out 2.5 to a system call, instead of some 40.
///
/// It is not [`tokio::task::yield_now`]: with that, no other thread takes the task over while its own thread is busy.
pub(crate) async fn yield_to_ready() {
    let mut has_waited = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn ready_tasks_come_before_it() {
        let (order, woken) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
        let taking = tokio::spawn({
            let (order, woken) = (Arc::clone(&order), Arc::clone(&woken));
            async move {
                woken.notified().await;
                yield_to_ready().await;
                order.lock().unwrap().push("takes");
            }
        });
        // The task waits now.
        tokio::task::yield_now().await;
        let giving = ["first", "second", "third"].map(|name| {
            let (order, woken) = (Arc::clone(&order), Arc::clone(&woken));
            tokio::spawn(async move {
                order.lock().unwrap().push(name);
                woken.notify_one();
            })
        });
        for one in giving {
            one.await.unwrap();
        }
        taking.await.unwrap();
        assert_eq!(
            *order.lock().unwrap(),
            ["first", "second", "third", "takes"]
        );
    }
}
