//! The republisher's lease, held from beginning to end, however long other steps take. Never decides what is
//! published.

use tokio::{task::JoinSet, time::Instant};

use super::{LEASE, RepublishError};
use crate::{
    error_text::error_texts,
    outbox::{Outbox, OutboxError, Store},
    task::fence::{Fence, LeaseOver},
};

/// A lease that renews itself until it is ended. When it is dropped, it expires.
pub(super) struct Tenure<DB: Store> {
    outbox: Outbox<DB>,
    republisher: String,
    fence: Fence,
    renewing: JoinSet<()>,
}

impl From<LeaseOver> for RepublishError {
    fn from(_: LeaseOver) -> Self {
        Self::Busy
    }
}

impl<DB: Store> Tenure<DB> {
    /// Takes the lease.
    pub(super) async fn begin(
        outbox: &Outbox<DB>,
        republisher: &str,
    ) -> Result<Self, RepublishError> {
        let asked = Instant::now();
        outbox.claim_republish(republisher).await?;
        let fence = Fence::until(asked + LEASE);
        let mut renewing = JoinSet::new();
        let renew = renew(outbox.clone(), republisher.to_owned(), asked, fence.clone());
        renewing.spawn(renew);
        Ok(Self {
            outbox: outbox.clone(),
            republisher: republisher.to_owned(),
            fence,
            renewing,
        })
    }

    /// Until when no other republisher can have the lease.
    pub(super) fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Ends the lease, so that another republisher need not wait until it expires.
    pub(super) async fn end(mut self) -> Result<(), OutboxError> {
        self.renewing.shutdown().await;
        self.outbox.release_republish(&self.republisher).await
    }
}

/// Renews the lease until another republisher has it, or until it has expired because the database did not answer.
async fn renew<DB: Store>(
    outbox: Outbox<DB>,
    republisher: String,
    mut asked: Instant,
    fence: Fence,
) {
    loop {
        tokio::time::sleep_until(asked + LEASE / 4).await;
        let until = asked + LEASE;
        loop {
            let now = Instant::now();
            match tokio::time::timeout_at(until, outbox.claim_republish(&republisher)).await {
                Ok(Ok(())) => {
                    asked = now;
                    fence.extend(asked + LEASE);
                    break;
                }
                Ok(Err(error @ (RepublishError::Busy | RepublishError::Refused(_)))) => {
                    fence.extend(Instant::now());
                    return tracing::error!(%error, "republish lease lost");
                }
                Ok(Err(error)) => {
                    let error = error_texts(&error).join(": ");
                    tracing::warn!(error, "republish lease not renewed");
                    tokio::time::sleep(LEASE / 16).await;
                }
                Err(_) => {
                    return tracing::error!("republish lease expired");
                }
            }
        }
    }
}
