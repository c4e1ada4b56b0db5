//! What a batch handler receives with the events. It owns nothing that outlives the batch.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::replay::tag::ReplayId;

/// What a batch handler receives with the events.
pub struct BatchContext<S> {
    pub(super) state: Arc<S>,
    pub(super) subscriber: Arc<str>,
    pub(super) replay: Option<ReplayId>,
    pub(super) cancelled: CancellationToken,
}

impl<S> BatchContext<S> {
    /// The state that the worker was created with.
    #[must_use]
    pub fn state(&self) -> &S {
        &self.state
    }

    /// The subscriber's durable name.
    #[must_use]
    pub fn subscriber(&self) -> &str {
        &self.subscriber
    }

    /// Whether the events are handled again on purpose, as part of a replay. It holds for all events of a batch, or for
    /// none.
    #[must_use]
    pub fn is_replay(&self) -> bool {
        self.replay.is_some()
    }

    /// The replay that the events are part of, if any.
    #[must_use]
    pub fn replay_id(&self) -> Option<ReplayId> {
        self.replay
    }

    /// Cancelled when the handler should stop: its timeout has passed, or the shutdown timeout has passed.
    #[must_use]
    pub fn cancelled(&self) -> &CancellationToken {
        &self.cancelled
    }
}

impl<S> Clone for BatchContext<S> {
    fn clone(&self) -> Self {
        Self {
            state: Arc::clone(&self.state),
            subscriber: Arc::clone(&self.subscriber),
            replay: self.replay,
            cancelled: self.cancelled.clone(),
        }
    }
}

impl<S> std::fmt::Debug for BatchContext<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchContext")
            .field("subscriber", &self.subscriber)
            .finish_non_exhaustive()
    }
}
