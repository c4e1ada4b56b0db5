//! How long a stream may confirm nothing, and how often the row is retried meanwhile. Never decides what is sent.

use std::time::Duration;

use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Measured from the last stored message on.
pub(super) struct Patience {
    until: Instant,
    pause: Duration,
    is_tried: bool,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self {
            until: Instant::now() + PATIENCE,
            pause: FIRST_PAUSE,
            is_tried: false,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        Instant::now() > self.until
    }

    /// Pauses, unless this is the first refusal and it states how to retry.
    pub(super) async fn wait(&mut self, says_what_to_do: bool) {
        let is_first = !std::mem::replace(&mut self.is_tried, true);
        if is_first && says_what_to_do {
            return;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever refusal a server repeats, the number of retries is bounded.
    #[tokio::test(start_paused = true)]
    async fn a_lasting_refusal_is_retried_some_forty_times() {
        for says_what_to_do in [true, false] {
            let mut patience = Patience::new();
            let mut tries = 0;
            while !patience.is_over() {
                patience.wait(says_what_to_do).await;
                tries += 1;
            }
            assert!((30..45).contains(&tries), "{tries}");
        }
    }
}
