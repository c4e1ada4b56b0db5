//! Which of several instances is active for an ordered subscriber, or runs a replay. Never decides what the work is.
//!
//! The lease is an entry that its holder renews again and again. No clocks are compared. A standby takes over when it
//! has seen the same revision for the whole lease. The holder stops when it has not managed to write for as long,
//! counted from before its last successful write.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    error_text::unplaced,
    log::{Lasting, short},
    nats::{Bus, BusError, keys},
    observer::{LeaseChange, Observation, Observers},
    position::Position,
    replay::tag::ReplayId,
    task::fence::Fence,
};

/// How long a standby waits for a holder that died.
const LEASE: Duration = Duration::from_secs(5);
/// The most bytes that the message of an entry has beside its value.
const AROUND: usize = 1024;
/// How often a standby looks.
const LOOK: Duration = Duration::from_millis(250);

/// The events handled above the ack floors, by stream.
pub(super) type Handled = BTreeMap<String, Vec<Position>>;

/// The content of the entry.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Written {
    /// The active instance; `None` after a clean stop.
    owner: Option<String>,
    /// What the holder that stopped had handled.
    #[serde(default)]
    handled: Handled,
    /// How often in a row the lease was taken from a holder that had not released it.
    #[serde(default)]
    unclean: u32,
}

pub(super) struct Lease {
    bus: Bus,
    subscriber: String,
    key: String,
    owner: String,
    observers: Observers,
    /// Throttle the log: the lease cannot be read, and it is not renewed.
    unread: Lasting,
    unrenewed: Lasting,
}

/// The lease as its holder sees it.
pub(super) struct Tenure {
    revision: u64,
    /// When it expires unless it is renewed.
    fence: Fence,
    /// What the previous holder has handled, if it stopped cleanly.
    pub(super) handled: Handled,
    /// How many previous holders in a row did not release it: their processes died, or lost their connection.
    pub(super) unclean: u32,
}

impl Lease {
    pub(super) fn new(bus: &Bus, subscriber: &str, observers: &Observers) -> Self {
        Self {
            bus: bus.clone(),
            subscriber: subscriber.to_owned(),
            key: keys::lease(subscriber),
            owner: Uuid::now_v7().to_string(),
            observers: observers.clone(),
            unread: Lasting::default(),
            unrenewed: Lasting::default(),
        }
    }

    /// The lease of a replay of the subscriber.
    pub(super) fn of_replay(
        bus: &Bus,
        subscriber: &str,
        id: ReplayId,
        observers: &Observers,
    ) -> Self {
        Self {
            key: keys::lease_of_replay(subscriber, &id),
            ..Self::new(bus, &format!("{subscriber}/replay/{id}"), observers)
        }
    }

    /// Clears a lease that no instance will want again.
    pub(super) async fn forget(&self) {
        let is_there = match self.bus.read_state(&self.key).await {
            Ok(entry) => entry.is_some_and(|entry| !entry.value.is_empty()),
            Err(_) => true,
        };
        if !is_there {
            return;
        }
        if let Err(error) = self.bus.clear_state(LEASE, &self.key).await {
            tracing::debug!(subscriber = self.subscriber, %error, "subscriber lease not deleted");
        }
    }

    /// Waits until the lease is free, and takes it; `None` when told to stop first. Reports whether it can be read.
    pub(super) async fn acquire(
        &self,
        stop: &CancellationToken,
        tell: impl Fn(Option<String>),
    ) -> Option<Tenure> {
        let mut seen: Option<(u64, Instant)> = None;
        loop {
            let looked = self.look(&mut seen).await;
            tell(looked.as_ref().err().map(BusError::to_string));
            match looked {
                Ok(Some(tenure)) => {
                    let revision = tenure.revision;
                    self.tell(LeaseChange::Gained { revision });
                    return Some(tenure);
                }
                Ok(None) => {}
                Err(error) => {
                    let error = error.to_string();
                    if let Some(unsaid) = self.unread.again_as(&error, Instant::now().into_std()) {
                        let error = &*short(&error);
                        tracing::warn!(
                            subscriber = self.subscriber,
                            error,
                            unsaid,
                            "subscriber lease not read"
                        );
                    }
                }
            }
            stop.run_until_cancelled(tokio::time::sleep(LOOK)).await?;
        }
    }

    /// Takes the lease if it is free, or was not renewed for its whole duration.
    async fn look(&self, seen: &mut Option<(u64, Instant)>) -> Result<Option<Tenure>, BusError> {
        let entry = self.bus.read_state(&self.key).await?;
        let now = Instant::now();
        let revision = entry.as_ref().map_or(0, |entry| entry.revision);
        let found = entry.map(|entry| read(&entry.value)).unwrap_or_default();
        let is_free = found.owner.is_none();
        let since = match *seen {
            Some((before, since)) if before == revision => since,
            before => {
                if before.is_none() && !is_free {
                    self.tell(LeaseChange::Standby);
                }
                now
            }
        };
        *seen = Some((revision, since));
        if !is_free && now - since < LEASE {
            return Ok(None);
        }
        let unclean = if is_free {
            0
        } else {
            found.unclean.saturating_add(1)
        };
        let mine = self.mine(unclean);
        let written = self.bus.write_state(&self.key, mine, revision);
        Ok(written.await?.map(|revision| Tenure {
            revision,
            fence: Fence::until(now + LEASE),
            handled: found.handled,
            unclean,
        }))
    }

    fn tell(&self, change: LeaseChange) {
        let subscriber = &self.subscriber;
        self.observers
            .tell(&Observation::Lease { subscriber, change });
    }

    /// Renews the lease; returns when it is lost.
    pub(super) async fn hold(&self, tenure: &mut Tenure) {
        loop {
            tokio::time::sleep(LEASE / 3).await;
            let fence = tenure.fence.clone();
            let is_renewed = tokio::select! {
                biased;
                is_renewed = self.renew(tenure) => is_renewed,
                _ = fence.passed() => false,
            };
            if !is_renewed {
                self.tell(LeaseChange::Lost);
                return;
            }
        }
    }

    /// Writes until the renewal is confirmed; false when another instance holds the lease.
    async fn renew(&self, tenure: &mut Tenure) -> bool {
        loop {
            let now = Instant::now();
            let mine = self.mine(tenure.unclean);
            let written = self.bus.write_state(&self.key, mine, tenure.revision);
            match written.await {
                Ok(Some(revision)) => {
                    tenure.revision = revision;
                    tenure.fence.extend(now + LEASE);
                    return true;
                }
                // The entry may be its own write, if the response was lost.
                Ok(None) => match self.bus.read_state(&self.key).await {
                    Ok(Some(entry)) if read(&entry.value).owner.as_ref() != Some(&self.owner) => {
                        return false;
                    }
                    Ok(Some(entry)) => tenure.revision = entry.revision,
                    Ok(None) => tenure.revision = 0,
                    Err(error) => self.unrenewed(&error),
                },
                Err(error) => self.unrenewed(&error),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn unrenewed(&self, error: &BusError) {
        if let Some(unsaid) = self.unrenewed.again(Instant::now().into_std()) {
            tracing::warn!(subscriber = self.subscriber, %error, unsaid, "subscriber lease not renewed");
        }
    }

    fn mine(&self, unclean: u32) -> Bytes {
        bytes_of(&Written {
            owner: Some(self.owner.clone()),
            handled: Handled::new(),
            unclean,
        })
    }

    /// Releases the lease, so that a standby takes over at once, and passes on what was handled.
    pub(super) async fn release(&self, tenure: &Tenure, handled: Handled) {
        let mut free = bytes_of(&Written {
            handled,
            ..Written::default()
        });
        if free.len() + AROUND > self.bus.max_payload() {
            tracing::warn!(
                subscriber = self.subscriber,
                bytes = free.len(),
                "lease entry too large: events that were handled ahead of an older event are handled again"
            );
            free = bytes_of(&Written::default());
        }
        let written = self.write_free(free, tenure.revision);
        match tokio::time::timeout(LEASE, written).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.unreleased(&error),
            Err(late) => self.unreleased(&late),
        }
    }

    /// Overwrites its own entry, whatever the revision: the response to a renewal may have been lost, or not awaited.
    async fn write_free(&self, free: Bytes, mut revision: u64) -> Result<(), BusError> {
        loop {
            let written = self.bus.write_state(&self.key, free.clone(), revision);
            if written.await?.is_some() {
                return Ok(());
            }
            match self.bus.read_state(&self.key).await? {
                Some(entry) if read(&entry.value).owner.as_ref() == Some(&self.owner) => {
                    revision = entry.revision;
                }
                _ => return Ok(()),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn unreleased(&self, error: &dyn std::fmt::Display) {
        tracing::warn!(
            subscriber = self.subscriber, %error,
            "subscriber lease not released: a standby waits until it expires"
        );
    }
}

/// Makes the next holder handle what the previous one has handled of a stream: the consumer was reset.
pub(crate) async fn forget_handled(
    bus: &Bus,
    subscriber: &str,
    stream: &str,
) -> Result<(), BusError> {
    let key = keys::lease(subscriber);
    loop {
        let entry = match bus.read_state(&key).await {
            Ok(entry) => entry,
            // No ordered subscriber has created the bucket.
            Err(BusError::NoResponders { .. }) => None,
            Err(error) => return Err(error),
        };
        let Some(entry) = entry else { return Ok(()) };
        let mut written = read(&entry.value);
        let (before, of_stream) = (written.handled.len(), format!("{stream} "));
        written
            .handled
            .retain(|place, _| !place.starts_with(&of_stream));
        if written.handled.len() == before {
            return Ok(());
        }
        let wrote = bus.write_state(&key, bytes_of(&written), entry.revision);
        if wrote.await?.is_some() {
            return Ok(());
        }
    }
}

/// An unreadable entry counts as free.
fn read(value: &[u8]) -> Written {
    serde_json::from_slice(value).unwrap_or_else(|error| {
        tracing::warn!(
            error = unplaced(&error),
            "lease entry invalid: the lease counts as free"
        );
        Written::default()
    })
}

fn bytes_of(written: &Written) -> Bytes {
    // Texts and numbers always serialise.
    serde_json::to_vec(written).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_leases() {
        let seeds = [
            r#"{"owner":"x","handled":{"EVENTS 2026":[[17,1700000000000000000],[18446744073709551615,-1]]},"unclean":2}"#,
            r#"{"owner":null}"#,
        ];
        tidings_fuzz::fuzz_json("lease", &seeds, |value| {
            let written = read(value);
            let again = read(&bytes_of(&written));
            assert_eq!(bytes_of(&again), bytes_of(&written));
            written.owner.is_some() || !written.handled.is_empty()
        });
    }
}
