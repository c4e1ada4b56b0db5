//! What happens to the process while a handler runs. Never the outcome of the event.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::recorder::Answers;
use crate::handler::DIES;

/// What happens to the process while a handler runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Lives,
    /// The process has to stop, and hands back the event.
    Halts,
    Dies(Death),
}

/// Where a process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// The handler has succeeded, and nothing after it has run: a transaction is not committed.
    AfterTheHandler,
    /// Everything is done but the ack.
    BeforeTheAck,
    /// At an await, counted from 1, that is not ready at once.
    AtAwait(u32),
}

impl Fate {
    /// Runs an attempt with these [answers](Fate::answers); `None` when the process died.
    pub(super) async fn befall<T>(
        self,
        attempt: impl Future<Output = T>,
        halt: &CancellationToken,
        dies: &Arc<Notify>,
    ) -> Option<T> {
        match self {
            Self::Lives => Some(attempt.await),
            Self::Halts => {
                let mut attempt = pin!(attempt);
                match awaited(attempt.as_mut(), 1).await {
                    Some(done) => Some(done),
                    None => {
                        halt.cancel();
                        Some(attempt.await)
                    }
                }
            }
            Self::Dies(Death::BeforeTheAck) => lived(attempt, dies).await,
            Self::Dies(Death::AfterTheHandler) => {
                lived(DIES.scope(Arc::clone(dies), attempt), dies).await
            }
            Self::Dies(Death::AtAwait(last)) => awaited(pin!(attempt), last).await,
        }
    }

    pub(super) fn answers(self, dies: &Arc<Notify>) -> Answers {
        let at_ack = self == Self::Dies(Death::BeforeTheAck);
        Answers::new(at_ack.then(|| Arc::clone(dies)))
    }
}

/// Runs an attempt; `None` when the process died before its end.
async fn lived<T>(attempt: impl Future<Output = T>, dies: &Notify) -> Option<T> {
    tokio::select! {
        done = attempt => Some(done),
        () = dies.notified() => None,
    }
}

/// Runs an attempt up to this await, from 1, counting those that are not ready at once; `None` when it reached it.
async fn awaited<T>(mut attempt: Pin<&mut impl Future<Output = T>>, last: u32) -> Option<T> {
    let mut awaits = 0;
    poll_fn(|cx| match attempt.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => {
            awaits += 1;
            match awaits {
                awaits if awaits < last => Poll::Pending,
                _ => Poll::Ready(None),
            }
        }
    })
    .await
}
