//! Logs streams that have lost messages which they had confirmed: when the loss is noticed, repeatedly while it
//! lasts, and when an operator has repaired or acknowledged it. Never delays events: new ones are published.

use chrono::Utc;

use crate::outbox::{
    losses::REPAIR,
    store::{
        losses::{Loss, Losses, StreamState, open},
        status::Issue,
    },
};

/// The known losses.
#[derive(Debug, Default)]
pub(super) struct Lost(Losses);

impl Lost {
    /// Takes the losses that the database stores, and logs them.
    pub(super) fn know(&mut self, stored: Losses) {
        for (stream, loss) in &stored {
            let was_open = self.0.get(stream).is_some_and(|known| known.is_open());
            if loss.is_open() {
                let (state, for_s) = (loss.state(), (Utc::now() - loss.since()).num_seconds());
                tracing::error!(
                    stream,
                    %state,
                    for_s,
                    cure = REPAIR,
                    "stream loss detected: confirmed events are missing; new events continue into the stream"
                );
            } else if was_open {
                tracing::info!(
                    stream,
                    "stream loss closed: it was repaired or acknowledged"
                );
            }
        }
        self.0 = stored;
    }

    /// The losses that are neither repaired nor acknowledged, as issues.
    pub(super) fn issues(&self) -> Vec<Issue> {
        open(&self.0).iter().map(Loss::issue).collect()
    }

    /// Whether any known loss is neither repaired nor acknowledged.
    pub(super) fn are_open(&self) -> bool {
        self.0.values().any(|loss| loss.is_open())
    }

    /// Whether the stream is known to be missing.
    pub(super) fn is_gone(&self, stream: &str) -> bool {
        let known = self.0.get(stream);
        known.is_some_and(|known| *known.state() == StreamState::Missing)
    }
}
