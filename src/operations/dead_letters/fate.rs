//! The results of redriven events. Never redrives an event, and never contacts a worker.
//!
//! A redriven event is in the retry stream until it is handled or dead-lettered again. The next attempt is stored
//! before the previous one is acknowledged, and always behind it. The dead letter is stored before its event is
//! settled. A redriven event carries the sequence of its dead letter. So the retries are read from start to end first,
//! and then the dead letters stored since: an event that is in neither was handled.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

use super::{DeadLettersError, StoredDeadLetter, retried, stream};
use crate::nats::{
    Bus, BusError, StartFrom, redrive::redriven_from, stream::streams::StreamSpec, subjects,
};

/// The first and the longest pause between two checks.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How many retries are read one by one from the leader. Any beyond are read from a replica, which may lag a moment.
const EXACTLY: usize = 10_000;
/// How many new dead letters are listed.
const NAMED: usize = 100;

/// Watches events that are redriven from now on.
#[derive(Debug)]
pub struct RedriveWatch {
    bus: Bus,
    /// The last sequence of the dead-letter stream when the watch began.
    after: u64,
    /// The sequences of the redriven dead letters, by subscriber.
    redriven: HashMap<String, HashSet<u64>>,
}

/// The results of redriven events.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RedriveFates {
    /// Handled: acknowledged, and not dead-lettered again.
    pub handled: u64,
    /// Dead-lettered again.
    pub failed_again: u64,
    /// Neither so far: not delivered, in flight, or waiting for another attempt.
    pub open: u64,
    /// The sequences of the new dead letters, in order: a hundred at most.
    pub dead_letters: Vec<u64>,
}

impl RedriveWatch {
    pub(super) async fn open(bus: &Bus) -> Result<Self, DeadLettersError> {
        let stream = stream();
        let upkeep = retried(|| bus.upkeep(&stream)).await?;
        let upkeep = upkeep.ok_or(DeadLettersError::NoStream { stream })?;
        Ok(Self {
            bus: bus.clone(),
            after: upkeep.last_sequence,
            redriven: HashMap::new(),
        })
    }

    /// Watches the event of a dead letter that was redriven.
    pub fn add(&mut self, letter: &StoredDeadLetter) {
        let of = self.redriven.entry(letter.subscriber.clone()).or_default();
        of.insert(letter.sequence);
    }

    /// Waits until no event is open any more, at most for `longest`.
    ///
    /// # Errors
    /// [`DeadLettersError::Bus`] when the server does not answer.
    ///
    /// # Cancel safety
    /// Nothing is changed: the caller can call it again.
    pub async fn wait(&self, longest: Duration) -> Result<RedriveFates, DeadLettersError> {
        let (began, mut pause) = (Instant::now(), FIRST_PAUSE);
        loop {
            let left = longest.saturating_sub(began.elapsed());
            // While some retries are left, the reading need not be exact.
            if left.is_zero() || self.waiting(false).await?.is_empty() {
                let fates = self.fates().await?;
                if left.is_zero() || fates.open == 0 {
                    return Ok(fates);
                }
            }
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn fates(&self) -> Result<RedriveFates, DeadLettersError> {
        // In this order: an event that leaves the retries in the meantime is in the dead letters by then.
        let open = self.waiting(true).await?;
        let mut fates = RedriveFates::default();
        for (subscriber, redriven) in &self.redriven {
            let again = self.again(subscriber, redriven).await?;
            let is_open = |letter: &&u64| {
                !again.contains_key(letter) && open.contains(&(&**subscriber, **letter))
            };
            let still = redriven.iter().filter(is_open).count();
            fates.open += still as u64;
            fates.failed_again += again.len() as u64;
            fates.handled += (redriven.len() - again.len() - still) as u64;
            fates.dead_letters.extend(again.into_values());
        }
        fates.dead_letters.sort_unstable();
        fates.dead_letters.truncate(NAMED);
        Ok(fates)
    }

    /// The events that are in the retry stream, by subscriber and dead letter.
    async fn waiting(&self, exactly: bool) -> Result<HashSet<(&str, u64)>, DeadLettersError> {
        let mut waiting = HashSet::new();
        let stream = StreamSpec::retries().name;
        for (subscriber, redriven) in &self.redriven {
            let subjects = subjects::retries_of(subscriber);
            let (mut next, mut read, mut exactly) = (1, 0, exactly);
            loop {
                let from = StartFrom::Sequence(next);
                let page = match exactly && read < EXACTLY {
                    true => {
                        let wanted = json!({ "seq": next, "next_by_subj": subjects });
                        match retried(|| self.bus.single(&stream, &wanted)).await {
                            // The credentials may allow a read from a replica only.
                            Err(BusError::Denied { .. }) => {
                                exactly = false;
                                continue;
                            }
                            kept => kept?.into_iter().collect(),
                        }
                    }
                    false => retried(|| self.bus.page(&stream, &subjects, from)).await?,
                };
                let Some(last) = page.last() else {
                    break;
                };
                next = last.sequence.saturating_add(1);
                read += page.len();
                let ours = page.iter().filter_map(redriven_from);
                let ours = ours.filter(|letter| redriven.contains(letter));
                waiting.extend(ours.map(|letter| (&**subscriber, letter)));
            }
        }
        Ok(waiting)
    }

    /// The events that are dead-lettered again: the old dead letter and the new one.
    async fn again(
        &self,
        subscriber: &str,
        redriven: &HashSet<u64>,
    ) -> Result<HashMap<u64, u64>, DeadLettersError> {
        let (stream, subjects) = (stream(), subjects::dead_letters_of(subscriber));
        let mut again = HashMap::new();
        let (mut next, mut is_end) = (self.after.saturating_add(1), false);
        loop {
            // The leader may have more than the replica.
            let page = match is_end {
                false => {
                    let from = StartFrom::Sequence(next);
                    retried(|| self.bus.page(&stream, &subjects, from)).await?
                }
                true => {
                    let wanted = json!({ "seq": next, "next_by_subj": subjects });
                    let kept = retried(|| self.bus.single(&stream, &wanted)).await?;
                    kept.into_iter().collect()
                }
            };
            match page.last() {
                Some(last) => next = last.sequence.saturating_add(1),
                None if is_end => return Ok(again),
                None => is_end = true,
            }
            for kept in &page {
                if let Some(from) = redriven_from(kept).filter(|from| redriven.contains(from)) {
                    again.insert(from, kept.sequence);
                }
            }
        }
    }
}
