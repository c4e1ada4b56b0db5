//! Brings back what a verification misses, from the outbox. Never touches what is altered, there twice, or
//! inverted: a stream only grows.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio::sync::mpsc;

use super::{Examined, Verification, VerifiedStream, Verify, VerifyError};
use crate::outbox::{
    Chosen, Loss, OutboxError, RepublishError, Sender, Sending, Settled, Standing, Store,
};

/// What a repair found and did.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Repair {
    /// What was found before anything was done.
    pub found: Verification,
    /// How many events were published again, by the stream that took them.
    pub republished: BTreeMap<String, u64>,
    /// How many of them lie behind later ones of their key now.
    pub late: u64,
    /// Events that are missing and that the outbox has let go of meanwhile, or can no longer read; the log names those.
    pub out_of_reach: u64,
    /// The losses that are told no more.
    pub settled: Vec<Loss>,
}

/// Why a repair was not done, or not all of it. What was published is written down; another one goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// It could not be found out what is missing.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// It could not be published.
    #[error(transparent)]
    Republish(#[from] RepublishError),
}

impl Repair {
    /// Whether nothing is wrong any more.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let mut streams = self.found.streams.iter();
        let is_whole = |stream: &VerifiedStream| {
            stream.altered + stream.duplicated + stream.out_of_order == 0 && stream.issue.is_none()
        };
        self.out_of_reach == 0 && streams.all(is_whole)
    }

    /// How many events were published again.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.republished.values().sum()
    }
}

impl<DB: Store> Verify<DB> {
    /// Compares, and publishes again what was confirmed and is missing, in the order in which it was written, into
    /// the streams that take it now. Then the losses of these streams are told no more, unless only a part was
    /// compared. The relay may go on meanwhile; one repair works at a time.
    ///
    /// The event's id and all that it carries stay as they are. Events that consumers have handled before the
    /// stream lost them come to them again: an inbox (`on_once`) knows them.
    ///
    /// # Errors
    /// [`RepairError`]; what was published until then is there and is written down.
    ///
    /// # Cancel safety
    /// What is on its way may be stored. Another repair finds it.
    pub async fn repair(&self) -> Result<Repair, RepairError> {
        let mut sender = Sender::begin(&self.bus, &self.outbox, Sending::default()).await?;
        let repaired = self.mend(&mut sender).await;
        let ended = sender.end().await;
        let mut repair = repaired?;
        repair.republished = ended.map_err(RepublishError::from)?;
        Ok(repair)
    }

    async fn mend(&self, sender: &mut Sender<DB>) -> Result<Repair, RepairError> {
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
            places: missing,
            ends,
            ..Chosen::default()
        };
        // There is room for it.
        let _ = to.send(chosen).await;
        drop(to);
        let mut repair = Repair {
            late,
            out_of_reach: sender.send(wanted).await?,
            ..Repair::default()
        };
        if self.range.since.is_none() {
            for stream in &found.streams {
                if stream.standing == Standing::Known {
                    continue;
                }
                // A relay that begins later must not take it for new.
                let (name, standing) = (&stream.stream, &stream.standing);
                if let Some(was) = passed.get(name) {
                    let noticed = self.outbox.notice(name, standing, was).await;
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
