//! The republisher's lease, held from beginning to end, however long other steps take. Never decides what is
//! published.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{task::JoinSet, time::Instant};

use super::{LEASE, RepublishError};
use crate::{
    error_text::error_texts,
    outbox::{Outbox, OutboxError, Store},
};

/// A lease that renews itself until it is ended. When it is dropped, it expires.
pub(super) struct Tenure<DB: Store> {
    outbox: Outbox<DB>,
    mender: String,
    held: Held,
    renewing: JoinSet<()>,
}

/// Until when no other republisher can have the lease.
#[derive(Clone)]
pub(super) struct Held(Arc<Mutex<Instant>>);

impl Held {
    fn until(&self) -> MutexGuard<'_, Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails when another republisher may have the lease. Checks the clock: a process that was frozen may call this
    /// before its renewal has noticed that it is too late.
    pub(super) fn check(&self) -> Result<(), RepublishError> {
        match Instant::now() >= *self.until() {
            true => Err(RepublishError::Busy),
            false => Ok(()),
        }
    }
}

impl<DB: Store> Tenure<DB> {
    /// Takes the lease.
    pub(super) async fn begin(outbox: &Outbox<DB>, mender: &str) -> Result<Self, RepublishError> {
        let asked = Instant::now();
        outbox.mend(mender).await?;
        let held = Held(Arc::new(Mutex::new(asked + LEASE)));
        let mut renewing = JoinSet::new();
        let renew = renew(outbox.clone(), mender.to_owned(), asked, held.clone());
        renewing.spawn(renew);
        Ok(Self {
            outbox: outbox.clone(),
            mender: mender.to_owned(),
            held,
            renewing,
        })
    }

    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    /// Ends the lease, so that another republisher need not wait until it expires.
    pub(super) async fn end(mut self) -> Result<(), OutboxError> {
        self.renewing.shutdown().await;
        self.outbox.mended(&self.mender).await
    }
}

/// Renews the lease until another republisher has it, or until it has expired because the database did not answer.
async fn renew<DB: Store>(outbox: Outbox<DB>, mender: String, mut asked: Instant, held: Held) {
    loop {
        tokio::time::sleep_until(asked + LEASE / 4).await;
        let until = asked + LEASE;
        loop {
            let now = Instant::now();
            match tokio::time::timeout_at(until, outbox.mend(&mender)).await {
                Ok(Ok(())) => {
                    asked = now;
                    *held.until() = asked + LEASE;
                    break;
                }
                Ok(Err(error @ (RepublishError::Busy | RepublishError::Refused(_)))) => {
                    *held.until() = Instant::now();
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_expired_lease_is_not_held() {
        let held = Held(Arc::new(Mutex::new(Instant::now() + LEASE)));
        tokio::time::advance(LEASE - Duration::from_millis(1)).await;
        assert!(held.check().is_ok());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(matches!(held.check(), Err(RepublishError::Busy)));
    }
}
