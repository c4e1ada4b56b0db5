//! Standby: waits until the lease may be free. Never asks for the lease.
//!
//! A relay that stops cleanly announces its release to the standbys over NATS. They also check from time to time, so
//! a lost message only costs time.

use std::time::Duration;

use crate::nats::{Bus, Pings, subjects};

/// How long sending the release message may take.
const LAST_WORD: Duration = Duration::from_secs(1);

/// The minimum pause between two checks that release messages cause: false ones, however many, cause no more.
const APART: Duration = Duration::from_millis(50);

pub(super) struct StandBy {
    /// `None` when release messages cannot be received.
    released: Option<Pings>,
}

impl StandBy {
    /// Subscribes now, so that no release after the next check is missed.
    pub(super) async fn listen(bus: &Bus, outbox: &str) -> Self {
        let released = match bus.pings(&subjects::lease_released(outbox)).await {
            Ok(released) => Some(released),
            Err(error) => {
                tracing::debug!(%error, "lease releases not received: the lease is polled");
                None
            }
        };
        Self { released }
    }

    /// Waits until a relay announces that it has released the lease, or until the time is over.
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
        // Elapsing is no failure: it is time to check the lease.
        let _ = tokio::time::timeout(at_most, heard).await;
    }
}

/// Announces to the standbys that the lease is free, before the process may end.
pub(super) async fn tell_release(bus: &Bus, outbox: &str) {
    bus.ping(&subjects::lease_released(outbox));
    let _ = tokio::time::timeout(LAST_WORD, bus.sent()).await;
}
