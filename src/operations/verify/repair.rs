//! Republishes from the outbox what a verification finds missing. Never touches modified, duplicate or reordered
//! events: a stream only grows.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio::sync::mpsc;

use super::{Examined, Verification, VerifiedStream, Verify, VerifyError};
use crate::outbox::{
    Chosen, Loss, OutboxError, RepublishError, Sender, Sending, Settled, Store, StreamState,
};

/// What a repair found and did.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Repair {
    /// What was found before the repair.
    pub found: Verification,
    /// How many events were republished, by the stream that took them.
    pub republished: BTreeMap<String, u64>,
    /// How many of them now lie behind later ones of their key.
    pub late: u64,
    /// Missing events that the outbox has freed meanwhile, or can no longer read; the log names the latter.
    pub out_of_reach: u64,
    /// The losses that are now settled and no longer reported.
    pub settled: Vec<Loss>,
}

/// Why a repair failed, or was not completed. What was published is in the ledger; another repair continues.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The missing events could not be determined.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The missing events could not be published.
    #[error(transparent)]
    Republish(#[from] RepublishError),
}

impl Repair {
    /// Whether nothing is wrong after the repair.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let mut streams = self.found.streams.iter();
        let is_whole = |stream: &VerifiedStream| {
            stream.modified + stream.duplicates + stream.out_of_order == 0 && stream.issue.is_none()
        };
        self.out_of_reach == 0 && streams.all(is_whole)
    }

    /// How many events were republished.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.republished.values().sum()
    }
}

impl<DB: Store> Verify<DB> {
    /// Compares, and republishes confirmed events that are missing, in the order in which they were written, into
    /// the streams that take them now. Then the losses of these streams are no longer reported, unless only a part
    /// was compared. The relay may run meanwhile; only one repair runs at a time.
    ///
    /// The event's id and content stay as they are. Consumers receive again the events that they handled before the
    /// stream lost them: an inbox (`on_transactional`) recognises them.
    ///
    /// # Errors
    /// [`RepairError`]; what was published until then stays and is in the ledger.
    ///
    /// # Cancel safety
    /// Messages in flight may be stored. Another repair finds them.
    pub async fn repair(&self) -> Result<Repair, RepairError> {
        let mut sender = Sender::begin(&self.bus, &self.outbox, Sending::default()).await?;
        let repaired = self.republish_missing(&mut sender).await;
        let ended = sender.end().await;
        let mut repair = repaired?;
        repair.republished = ended.map_err(RepublishError::from)?;
        Ok(repair)
    }

    async fn republish_missing(&self, sender: &mut Sender<DB>) -> Result<Repair, RepairError> {
        let Examined {
            found,
            mut missing,
            late,
            ends,
            passed,
        } = self.examine().await?;
        missing.sort_unstable();
        missing.dedup();
        let (to, wanted) = mpsc::channel(1);
        let chosen = Chosen {
            ids: missing,
            ends,
            ..Chosen::default()
        };
        // The channel has room for it.
        let _ = to.send(chosen).await;
        drop(to);
        let mut repair = Repair {
            late,
            out_of_reach: sender.send(wanted).await?,
            ..Repair::default()
        };
        if self.range.since.is_none() {
            for stream in &found.streams {
                if stream.state == StreamState::Intact {
                    continue;
                }
                // A relay that starts later must not report this loss as new.
                let (name, state) = (&stream.stream, &stream.state);
                if let Some(was) = passed.get(name) {
                    let noticed = self.outbox.notice(name, state, was).await;
                    noticed.map_err(of_the_outbox)?;
                }
                let settled = self.outbox.settle(name, Settled::Repaired).await;
                repair.settled.extend(settled.map_err(of_the_outbox)?);
            }
        }
        repair.found = found;
        Ok(repair)
    }
}

fn of_the_outbox(error: OutboxError) -> RepairError {
    RepublishError::from(error).into()
}
