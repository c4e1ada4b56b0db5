//! What a lane has sent and waits to have confirmed. Never decides what an answer means.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures::{
    FutureExt,
    future::{self, BoxFuture},
};

use super::Item;
use crate::{
    nats::{BatchId, Bus, Confirmed, Refusal, Submission},
    task::fence::Fence,
};

/// The answer of the stream: one for a batch, about its last row, or one for each row that was sent side by side.
pub(in crate::outbox) enum Answer {
    Batch(Result<Confirmed, Refusal>),
    Each(Vec<Result<Confirmed, Refusal>>),
}

/// Rows in flight, and their answer.
pub(in crate::outbox) struct InFlight<N>(BoxFuture<'static, (Vec<Item<N>>, Answer)>);

impl<N: Send + 'static> InFlight<N> {
    /// A batch whose members are sent; this sends its commit. A single row needs no batch.
    pub(super) fn batch(
        bus: Bus,
        fence: Fence,
        stream: String,
        batch: BatchId,
        items: Vec<Item<N>>,
        last: Submission,
    ) -> Self {
        let answered = async move {
            if let Err(over) = refuse(&fence) {
                return (items, Answer::Batch(Err(over)));
            }
            let answer = match items.len() {
                1 => bus.publish_one(&stream, last).await,
                size => bus.commit_batch(&stream, &batch, size, last).await,
            };
            (items, Answer::Batch(answer))
        };
        Self(answered.boxed())
    }

    /// A few rows, sent side by side.
    pub(super) fn each(
        bus: Bus,
        fence: Fence,
        stream: String,
        items: Vec<Item<N>>,
        messages: Vec<Submission>,
    ) -> Self {
        let answered = async move {
            if let Err(over) = refuse(&fence) {
                return (items, Answer::Batch(Err(over)));
            }
            let sending = messages
                .into_iter()
                .map(|message| bus.publish_one(&stream, message));
            let answers = future::join_all(sending).await;
            (items, Answer::Each(answers))
        };
        Self(answered.boxed())
    }

    /// Waits for the answer, and stores it.
    pub(in crate::outbox) async fn land(&mut self) {
        let landed = (&mut self.0).await;
        self.0 = future::ready(landed).boxed();
    }

    /// Hands the commit to the client now, and does not wait for the answer.
    pub(in crate::outbox) async fn start(&mut self) {
        if let Poll::Ready(answered) = futures::poll!(&mut self.0) {
            self.0 = future::ready(answered).boxed();
        }
    }
}

/// The refusal that takes the place of the server's answer once the lease is over.
fn refuse(fence: &Fence) -> Result<(), Refusal> {
    fence.check().map_err(|over| Refusal::Transient {
        code: 0,
        reason: over.to_string(),
    })
}

impl Answer {
    /// The answer about the last row, which is about all rows of a batch.
    pub(in crate::outbox) fn about_last(self) -> Result<Confirmed, Refusal> {
        match self {
            Self::Batch(answer) => answer,
            Self::Each(mut answers) => answers.pop().unwrap_or(Err(Refusal::Incomplete)),
        }
    }
}

impl<N> Future for InFlight<N> {
    type Output = (Vec<Item<N>>, Answer);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_unpin(cx)
    }
}
