//! The stream of dead letters: reading, grouping, discarding and redriving them. Never writes a dead letter, and never
//! decides that an event is dead-lettered.
//!
//! ```no_run
//! use tidings::{Bus, dead_letters::{DeadLetterSelection, DeadLetters}};
//!
//! # async fn example(bus: Bus) -> Result<(), Box<dyn std::error::Error>> {
//! let dead_letters = DeadLetters::new(&bus);
//! let selection = DeadLetterSelection::default().subscriber("welcome-email");
//! let redriver = dead_letters.redriver().await?;
//! let mut letters = dead_letters.read(selection).await?;
//! while let Some(letter) = letters.next().await? {
//!     redriver.redrive(&letter).await?;
//! }
//! # Ok(())
//! # }
//! ```

mod fate;
#[cfg(test)]
mod fuzz;
mod group;
mod letter;
mod park;
mod redrive;
mod selection;

use std::{collections::VecDeque, time::Duration};

use crate::{
    nats::{Bus, BusError, StartFrom, StoredMessage, stream::streams::StreamSpec},
    observer::{DeadLetterEnd, Observation, Observers},
};
pub use fate::{RedriveFates, RedriveWatch};
pub use group::DeadLetterGroup;
use group::Groups;
pub use letter::StoredDeadLetter;
pub use park::{KeyRedrive, KeyStep, ParkedKey};
pub use redrive::{Edit, Redriver};
pub use selection::DeadLetterSelection;

/// How often a request is tried while the server does not answer, and the pause between two tries.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(500);

/// The dead letters of all subscribers. Cheap to create; holds only the connection.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    bus: Bus,
    observers: Observers,
}

/// Reads dead letters in the order of the stream, up to the last one at the time of opening. Keeps one page in memory,
/// however many dead letters there are.
#[derive(Debug)]
pub struct DeadLetterReader {
    bus: Bus,
    selection: DeadLetterSelection,
    subjects: String,
    page: VecDeque<StoredMessage>,
    next: StartFrom,
    last_sequence: u64,
}

/// Why dead letters cannot be read, discarded or redriven.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeadLettersError {
    /// A stream is missing.
    #[error("there is no stream {stream}: run `tidings streams apply`, which creates it")]
    NoStream {
        /// The stream.
        stream: String,
    },
    /// The stream does not allow messages to be deleted.
    #[error("the stream {stream} does not allow that a message is deleted (deny_delete, sealed)")]
    Undeletable {
        /// The stream.
        stream: String,
    },
    /// The dead letter no longer exists: it was redriven or discarded.
    #[error("there is no dead letter {sequence} any more")]
    Gone {
        /// The sequence of the dead letter.
        sequence: u64,
    },
    /// The dead letter cannot be redriven as it is. It is kept.
    #[error("the dead letter {sequence} cannot be redriven: {reason}")]
    Impossible {
        /// The sequence of the dead letter.
        sequence: u64,
        /// The reason.
        reason: String,
    },
    /// The subscriber has no consumer, so a redriven event would wait without being delivered. The dead letter is kept.
    #[error(
        "{subscriber} has no consumer of its retries, so no instance would take what is redriven to it: start a \
         worker that has the subscriber, which creates the consumer, or discard the dead letter"
    )]
    NoSubscriber {
        /// The subscriber.
        subscriber: String,
    },
    /// A key is still parked: not all of its dead letters were redriven.
    #[error("{subscriber} keeps the key {key} parked: {reason}")]
    StillParked {
        /// The subscriber.
        subscriber: String,
        /// The key.
        key: String,
        /// The reason.
        reason: String,
    },
    /// NATS does not answer, or refuses.
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl DeadLetters {
    /// The dead letters that are reached over a connection.
    #[must_use]
    pub fn new(bus: &Bus) -> Self {
        Self {
            bus: bus.clone(),
            observers: Observers::default(),
        }
    }

    /// Reads the selected dead letters.
    ///
    /// # Errors
    /// [`DeadLettersError::NoStream`] before `tidings streams apply`, otherwise [`DeadLettersError::Bus`].
    pub async fn read(
        &self,
        selection: DeadLetterSelection,
    ) -> Result<DeadLetterReader, DeadLettersError> {
        let stream = stream();
        let upkeep = retried(|| self.bus.upkeep(&stream)).await?;
        let upkeep = upkeep.ok_or(DeadLettersError::NoStream { stream })?;
        Ok(DeadLetterReader {
            bus: self.bus.clone(),
            subjects: selection.subjects(),
            next: selection.start(),
            page: VecDeque::new(),
            last_sequence: upkeep.last_sequence,
            selection,
        })
    }

    /// One dead letter, by its sequence in the stream.
    ///
    /// # Errors
    /// [`DeadLettersError::Gone`] when it does not exist, otherwise as [`DeadLetters::read`].
    pub async fn find(&self, sequence: u64) -> Result<StoredDeadLetter, DeadLettersError> {
        let stream = stream();
        if self.bus.upkeep(&stream).await?.is_none() {
            return Err(DeadLettersError::NoStream { stream });
        }
        let kept = retried(|| self.bus.kept(&stream, sequence)).await?;
        let kept = kept.filter(|kept| !kept.is_marker());
        let kept = kept.ok_or(DeadLettersError::Gone { sequence })?;
        Ok(StoredDeadLetter::of(kept))
    }

    /// Groups the selected dead letters by the fingerprint of the error, the largest group first. At most 10,000 groups
    /// are kept separate; all further dead letters are in one group without a fingerprint.
    ///
    /// # Errors
    /// As [`DeadLetters::read`].
    pub async fn groups(
        &self,
        selection: DeadLetterSelection,
    ) -> Result<Vec<DeadLetterGroup>, DeadLettersError> {
        let mut letters = self.read(selection).await?;
        let mut groups = Groups::default();
        while let Some(letter) = letters.next().await? {
            groups.add(&letter);
        }
        Ok(groups.largest_first())
    }

    /// Discards a dead letter permanently. Returns false when it no longer existed. When it was the last one of a
    /// parked key, [`KeyRedrive::unpark_if_empty`] unparks the key.
    ///
    /// # Errors
    /// [`DeadLettersError::Undeletable`] when the stream does not allow it, otherwise [`DeadLettersError::Bus`].
    ///
    /// # Cancel safety
    /// When the future is dropped, the dead letter may or may not be discarded. Calling it again discards it, and returns
    /// false when it was gone already.
    pub async fn discard(&self, letter: &StoredDeadLetter) -> Result<bool, DeadLettersError> {
        let stream = stream();
        let removed = retried(|| self.bus.remove(&stream, letter.sequence)).await;
        let discarded = removed.map_err(|error| match error {
            BusError::Refused { .. } => DeadLettersError::Undeletable { stream },
            error => error.into(),
        })?;
        let end = DeadLetterEnd::Discarded;
        self.observers
            .tell(&Observation::DeadLetter(letter.facts(), end));
        Ok(discarded)
    }

    /// Opens a watch that reports the outcome of the events that are redriven from now on.
    ///
    /// # Errors
    /// [`DeadLettersError::NoStream`] before `tidings streams apply`, otherwise [`DeadLettersError::Bus`].
    pub async fn watch(&self) -> Result<RedriveWatch, DeadLettersError> {
        RedriveWatch::open(&self.bus).await
    }

    /// Opens a redriver, which gives dead letters back to their subscribers.
    ///
    /// # Errors
    /// [`DeadLettersError::NoStream`] when the dead letters or the retries have no stream,
    /// [`DeadLettersError::Undeletable`] when a dead letter could not be deleted afterwards, otherwise
    /// [`DeadLettersError::Bus`].
    pub async fn redriver(&self) -> Result<Redriver, DeadLettersError> {
        Redriver::open(&self.bus).await
    }
}

impl DeadLetterReader {
    /// The next selected dead letter; `None` at the end.
    ///
    /// # Errors
    /// [`DeadLettersError::Bus`] when the server stays unreachable.
    ///
    /// # Cancel safety
    /// No dead letter is skipped when the future is dropped.
    pub async fn next(&mut self) -> Result<Option<StoredDeadLetter>, DeadLettersError> {
        loop {
            while let Some(kept) = self.page.pop_front() {
                if kept.sequence > self.last_sequence {
                    return Ok(None);
                }
                if kept.is_marker() {
                    continue;
                }
                let letter = StoredDeadLetter::of(kept);
                if self.selection.is_past(&letter) {
                    self.last_sequence = 0;
                    return Ok(None);
                }
                if self.selection.selects(&letter) {
                    return Ok(Some(letter));
                }
            }
            if matches!(self.next, StartFrom::Sequence(next) if next > self.last_sequence) {
                return Ok(None);
            }
            let Self {
                bus,
                subjects,
                next,
                ..
            } = &*self;
            let stream = stream();
            let page = retried(|| bus.page(&stream, subjects, *next)).await?;
            self.next = StartFrom::Sequence(match page.last() {
                Some(last) => last.sequence.saturating_add(1),
                None => u64::MAX,
            });
            self.page = page.into();
        }
    }

    /// How far it has read, and where it ends: sequences of the stream.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        let read = match (self.page.front(), self.next) {
            (Some(kept), _) => kept.sequence.saturating_sub(1),
            (None, StartFrom::Sequence(next)) => next.saturating_sub(1).min(self.last_sequence),
            _ => 0,
        };
        (read, self.last_sequence)
    }
}

/// The name of the stream of dead letters.
fn stream() -> String {
    StreamSpec::dead_letters().name
}

/// Repeats a request while the server does not answer. A redrive of a million dead letters is likely to meet a lost
/// connection.
async fn retried<T, Asking>(mut ask: impl FnMut() -> Asking) -> Result<T, BusError>
where
    Asking: Future<Output = Result<T, BusError>>,
{
    let mut tried = 0;
    loop {
        tried += 1;
        match ask().await {
            Err(error @ (BusError::Refused { .. } | BusError::NoStream { .. })) => {
                return Err(error);
            }
            Err(error) if tried < TRIES => {
                tracing::debug!(%error, tried, "request retried");
                tokio::time::sleep(PAUSE).await;
            }
            answered => return answered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Dead letters are redriven from spawned tasks too. This compiles only if every future is `Send`.
    #[test]
    fn every_future_can_be_spawned() {
        fn is_send<T: Send>(_: impl Fn(&'static DeadLetters) -> T) {}
        is_send(|letters| letters.read(DeadLetterSelection::default()));
        is_send(|letters| letters.groups(DeadLetterSelection::default()));
        is_send(|letters| letters.find(1));
        is_send(|letters| async move {
            let letter = letters.find(1).await?;
            letters.discard(&letter).await?;
            letters.redriver().await?.redrive(&letter).await
        });
    }
}
