//! Standing by: waiting until the lease may be free. Never asks for it.
//!
//! A relay that stops cleanly says so to those who wait, over NATS; they look from time to time besides, so
//! that a word that is lost costs time only.

use std::time::Duration;

use crate::{
    bus::{Bus, Pings},
    outbox::wake,
};

/// How long the last word may take to leave.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Looks that follow words which were not true are so far apart, however many words come.
const APART: Duration = Duration::from_millis(50);

pub(super) struct StandBy {
    /// `None` when releases are not heard.
    released: Option<Pings>,
}

impl StandBy {
    /// Listens from now on, so that no release after the next look is missed.
    pub(super) async fn listen(bus: &Bus, outbox: &str) -> Self {
        let released = match bus.pings(&wake::release_subject(outbox)).await {
            Ok(released) => Some(released),
            Err(error) => {
                tracing::debug!(%error, "lease releases not received: the lease is polled");
                None
            }
        };
        Self { released }
    }

    /// Waits until a relay says that it has released the lease, or for so long.
    pub(super) async fn wait(&self, at_most: Duration) {
        tracing::debug!("relay standby: another instance holds the lease");
        let heard = async {
            match &self.released {
                Some(released) => {
                    tokio::time::sleep(APART).await;
                    released.next().await;
                }
                None => std::future::pending().await,
            }
        };
        // Elapsing is no failure: it is time to look.
        let _ = tokio::time::timeout(at_most, heard).await;
    }
}

/// Tells those who stand by that the lease is free, before the process may end.
pub(super) async fn tell_release(bus: &Bus, outbox: &str) {
    bus.ping(&wake::release_subject(outbox));
    let _ = tokio::time::timeout(LAST_WORD, bus.sent()).await;
}
