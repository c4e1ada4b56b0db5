//! Streams that have lost what they had confirmed, said loudly: when it is noticed, again and again, and when
//! somebody has seen to it. Never holds events up for it: what is new goes on.

use chrono::Utc;

use crate::outbox::standing::{Losses, REPAIR, Standing};

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Lost(Losses);

impl Lost {
    /// Takes what the database keeps, and says it.
    pub(super) fn know(&mut self, kept: Losses) {
        for (stream, loss) in &kept {
            let was_open = self.0.get(stream).is_some_and(|known| known.is_open());
            if loss.is_open() {
                let (standing, for_s) =
                    (loss.standing(), (Utc::now() - loss.since()).num_seconds());
                tracing::error!(
                    stream,
                    %standing,
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
        self.0 = kept;
    }

    /// Whether anything is known that nobody has seen to.
    pub(super) fn are_open(&self) -> bool {
        self.0.values().any(|loss| loss.is_open())
    }

    /// Whether it is known that there is no such stream.
    pub(super) fn is_gone(&self, stream: &str) -> bool {
        let known = self.0.get(stream);
        known.is_some_and(|known| *known.standing() == Standing::Gone)
    }
}
