//! What a lane has sent and waits to have confirmed. Never decides what an answer means.
//!
//! A batch costs the server about 3 ms however small it is. So a few rows of different keys are sent concurrently,
//! each confirmed on its own: no key has two of them, so they cannot be reordered within a key.

use std::{
    collections::HashSet,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{FutureExt, future::BoxFuture};
use tidings_contract::{Envelope, wire};
use tokio::sync::OwnedSemaphorePermit;

use super::{fence::Fence, progress::Origin};
use crate::{
    nats::{BatchId, Bus, Confirmed, Refusal, Submission},
    outbox::store::Row,
};

/// The most rows of different keys that are sent concurrently: where the costs of the two methods meet, measured
/// with `sync_interval: always`.
const FEW: usize = 16;

/// A row in flight.
pub(super) struct Item {
    pub(super) origin: Origin,
    pub(super) row: Row,
    pub(super) envelope: Envelope,
    /// Its share of the payload that a lane may hold in memory.
    pub(super) _share: OwnedSemaphorePermit,
}

impl Item {
    pub(super) fn submission(&self, source: &str) -> Submission {
        let time = self.row.at;
        Submission::new(&self.envelope, wire::Defaults::new(source, time))
    }
}

/// The answer of the stream: one for a batch, about its last row, or one for each of a few rows.
pub(super) enum Answer {
    Batch(Result<Confirmed, Refusal>),
    Each(Vec<Result<Confirmed, Refusal>>),
}

/// Rows in flight, and their answer. The fence is checked at the moment of sending, since time may pass before the
/// future is polled.
pub(super) struct Flying(BoxFuture<'static, (Vec<Item>, Answer)>);

impl Flying {
    /// A batch whose members are already sent; this sends its commit.
    pub(super) fn batch(
        bus: Bus,
        fence: Fence,
        stream: String,
        batch: BatchId,
        items: Vec<Item>,
        last: Submission,
    ) -> Self {
        let answered = async move {
            if let Err(over) = fence.refuse() {
                return (items, Answer::Batch(Err(over)));
            }
            let answer = bus.commit_batch(&stream, &batch, items.len(), last).await;
            (items, Answer::Batch(answer))
        };
        Self(answered.boxed())
    }

    /// A few rows, sent concurrently.
    pub(super) fn each(
        bus: Bus,
        fence: Fence,
        stream: String,
        items: Vec<Item>,
        messages: Vec<Submission>,
    ) -> Self {
        let answered = async move {
            if let Err(over) = fence.refuse() {
                return (items, Answer::Batch(Err(over)));
            }
            let sending = messages
                .into_iter()
                .map(|message| bus.publish_one(&stream, message));
            let answers = futures::future::join_all(sending).await;
            (items, Answer::Each(answers))
        };
        Self(answered.boxed())
    }

    /// Waits for the answer, and stores it.
    pub(super) async fn land(&mut self) {
        let landed = (&mut self.0).await;
        self.0 = futures::future::ready(landed).boxed();
    }

    /// Whether rows may be sent concurrently: few, and no two of one key.
    pub(super) fn is_few(items: &[Item]) -> bool {
        if items.len() > FEW {
            return false;
        }
        let keys: HashSet<&str> = items
            .iter()
            .filter_map(|item| item.row.key.as_deref())
            .collect();
        let keyed = items.iter().filter(|item| item.row.key.is_some()).count();
        keys.len() == keyed
    }
}

impl Future for Flying {
    type Output = (Vec<Item>, Answer);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_unpin(cx)
    }
}
