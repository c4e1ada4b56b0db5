//! Redrives all dead letters of a parked key, in the order of the key, until the key can be unparked. Never decides
//! that it can: the subscriber does.
//!
//! While dead letters are redriven, later events of the key are still dead-lettered. So the redrive makes rounds until
//! one finds none. Then it publishes a question behind the last redriven event. The subscriber unparks the key if no
//! dead letter of the key was stored since that round; else there is another round. A question from an earlier round
//! does not count.
//!
//! The redrive need not be faster than the events arrive. When a question does not unpark the key, the subscriber
//! defers the later events of the key for a time, so that they are not dead-lettered. Such a question precedes the dead
//! letters of each round but the first. The caller's rate limit is for the first round: the later dead letters are as
//! new as any live event.

use std::{collections::VecDeque, time::Duration};

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    DeadLetterSelection, DeadLetters, DeadLettersError, Redriver, StoredDeadLetter, retried, stream,
};
use crate::nats::{Park, Question, StartFrom, subjects};

/// How long the subscriber may take to reach the last redriven event.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two checks.
const LOOK: Duration = Duration::from_millis(100);

/// A key that a subscriber has parked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParkedKey {
    /// The subscriber.
    pub subscriber: String,
    /// The key.
    pub key: String,
    /// When the key was parked.
    pub since: DateTime<Utc>,
    park: Uuid,
}

/// Redrives one parked key, step by step. The caller sets the pace, and may stop after any step.
#[derive(Debug)]
pub struct KeyRedrive {
    redriver: Redriver,
    parked: ParkedKey,
    /// The dead letters of this round, in the order of their key.
    queue: VecDeque<u64>,
    /// Every dead letter of the key up to this sequence is in the queue or was redriven.
    listed: u64,
    /// The last sequence that the first round listed.
    first_round: Option<u64>,
    /// The deadline for the answer to the question that was published.
    asked: Option<Instant>,
}

/// The result of a step.
#[derive(Debug)]
#[non_exhaustive]
pub enum KeyStep {
    /// A dead letter was redriven.
    Redriven(Box<StoredDeadLetter>),
    /// All dead letters were redriven, and the subscriber has not reached the last of them.
    Waiting,
    /// The key is no longer parked.
    Unparked,
}

impl DeadLetters {
    /// Lists the parked keys of the selected subscriber and key.
    ///
    /// # Errors
    /// [`DeadLettersError::Bus`] when the server does not answer.
    pub async fn parked_keys(
        &self,
        selection: &DeadLetterSelection,
    ) -> Result<Vec<ParkedKey>, DeadLettersError> {
        let (parks, bad) = retried(|| self.bus.parks(None)).await?;
        for entry in bad {
            tracing::warn!(issue = %entry, "bucket entry skipped");
        }
        let fits =
            |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        let parks = parks.into_iter().filter(|(subscriber, park)| {
            fits(&selection.subscriber, subscriber) && fits(&selection.key, &park.key)
        });
        let parked = parks.map(|(subscriber, Park { id, key, since, .. })| ParkedKey {
            subscriber,
            key,
            since,
            park: id,
        });
        Ok(parked.collect())
    }
}

impl Redriver {
    /// Redrives the dead letters of a parked key until the subscriber unparks it.
    #[must_use]
    pub fn redrive_key(&self, parked: &ParkedKey) -> KeyRedrive {
        KeyRedrive {
            redriver: self.clone(),
            parked: parked.clone(),
            queue: VecDeque::new(),
            listed: 0,
            first_round: None,
            asked: None,
        }
    }

    /// Returns the id of the park that a dead letter must pass. Of a parked key only the first one can be redriven by
    /// itself.
    pub(super) async fn pass(
        &self,
        letter: &StoredDeadLetter,
    ) -> Result<Option<Uuid>, DeadLettersError> {
        let Some(key) = &letter.key else {
            return Ok(None);
        };
        let subscriber = &letter.subscriber;
        let park = retried(|| self.bus.park_of(subscriber, key)).await?.1;
        let Some(park) = park else {
            return Ok(None);
        };
        let mut first = self.redrive_key(&ParkedKey {
            subscriber: subscriber.clone(),
            key: key.clone(),
            since: park.since,
            park: park.id,
        });
        if !first.begin_round().await? || first.queue.front() != Some(&letter.sequence) {
            return Err(DeadLettersError::Impossible {
                sequence: letter.sequence,
                reason: format!(
                    "{subscriber} has parked its key, and this is not the key's first dead letter: redrive the whole \
                     key"
                ),
            });
        }
        Ok(Some(park.id))
    }
}

impl KeyRedrive {
    /// The parked key.
    #[must_use]
    pub fn parked(&self) -> &ParkedKey {
        &self.parked
    }

    /// How many dead letters are listed and not redriven yet. More may have been stored since.
    #[must_use]
    pub fn left(&self) -> usize {
        self.queue.len()
    }

    /// Whether all dead letters of the first round are redriven. The remaining ones were stored later, and while they
    /// are redriven the subscriber defers newer events of the key: a rate limit is for the first round only.
    #[must_use]
    pub fn is_catching_up(&self) -> bool {
        let is_later = |first: u64| self.queue.iter().all(|sequence| *sequence > first);
        self.first_round.is_some_and(is_later)
    }

    /// Redrives the next dead letter, or checks whether the subscriber has unparked the key.
    ///
    /// # Errors
    /// [`DeadLettersError::StillParked`] when an event has failed again, or the subscriber does not reach the last
    /// redriven event; else as [`Redriver::redrive`]. After any error the key stays parked, and another redrive
    /// continues.
    ///
    /// # Cancel safety
    /// As [`Redriver::redrive`].
    pub async fn next(&mut self) -> Result<KeyStep, DeadLettersError> {
        loop {
            while let Some(sequence) = self.queue.pop_front() {
                let dead_letters = DeadLetters::new(&self.redriver.bus);
                let redriven = match dead_letters.find(sequence).await {
                    Ok(letter) => {
                        let passing = self.redriver.redrive_passing(&letter, self.parked.park);
                        passing.await.map(|()| letter)
                    }
                    Err(error) => Err(error),
                };
                match redriven {
                    Ok(letter) => return Ok(KeyStep::Redriven(Box::new(letter))),
                    // Another process has redriven or discarded it.
                    Err(DeadLettersError::Gone { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            if !self.begin_round().await? {
                return self.ask().await;
            }
        }
    }

    /// Unparks the key if it has no dead letters left. Returns false when it has one.
    ///
    /// # Errors
    /// As [`KeyRedrive::next`].
    ///
    /// # Cancel safety
    /// When the future is dropped, the subscriber may still unpark the key. Calling it again asks again.
    pub async fn unpark_if_empty(mut self) -> Result<bool, DeadLettersError> {
        loop {
            if self.begin_round().await? {
                return Ok(false);
            }
            if let KeyStep::Unparked = self.ask().await? {
                return Ok(true);
            }
        }
    }

    /// Lists the dead letters that are not redriven yet. If there are any, earlier questions no longer count.
    async fn begin_round(&mut self) -> Result<bool, DeadLettersError> {
        let (subscriber, key) = (&self.parked.subscriber, &self.parked.key);
        let bus = &self.redriver.bus;
        let (stream, subject) = (stream(), subjects::dead_letters_of(subscriber));
        // A lagging replica must show everything that the leader has before its end counts as the end.
        let last = retried(|| bus.last_letter(subscriber)).await?;
        let mut found = Vec::new();
        while self.listed < last {
            let start = StartFrom::Sequence(self.listed.saturating_add(1));
            let page = retried(|| bus.page(&stream, &subject, start)).await?;
            if page.is_empty() {
                if retried(|| bus.last_letter(subscriber)).await? <= self.listed {
                    break;
                }
                tokio::time::sleep(LOOK).await;
            }
            for kept in page {
                self.listed = kept.sequence;
                let letter = StoredDeadLetter::of(kept);
                if letter.key.as_ref() == Some(key) && &letter.subscriber == subscriber {
                    found.push((letter.stream, letter.stream_sequence, letter.sequence));
                }
            }
        }
        let is_first = self.first_round.is_none();
        self.first_round.get_or_insert(self.listed);
        if found.is_empty() {
            return Ok(false);
        }
        // An event that failed again is stored behind its successors: sort by the order of the events.
        found.sort();
        self.queue = found.into_iter().map(|(_, _, sequence)| sequence).collect();
        self.asked = None;
        if self.renew().await?.is_some() && !is_first {
            self.ask_to_give_way().await?;
        }
        Ok(true)
    }

    /// Publishes a question that never counts: the dead letters of this round follow it.
    async fn ask_to_give_way(&self) -> Result<(), DeadLettersError> {
        let (subscriber, bus) = (&self.parked.subscriber, &self.redriver.bus);
        let question = Question {
            key: self.parked.key.clone(),
            park: self.parked.park,
            redrive: Uuid::nil(),
            after: self.listed,
        };
        Ok(retried(|| bus.ask_to_go_on(subscriber, &question)).await?)
    }

    /// Publishes the question behind the redriven events, then checks whether the key was unparked.
    async fn ask(&mut self) -> Result<KeyStep, DeadLettersError> {
        let (subscriber, key) = (&self.parked.subscriber, &self.parked.key);
        let bus = &self.redriver.bus;
        match self.asked {
            None => {
                let Some(redrive) = self.renew().await? else {
                    return Ok(KeyStep::Unparked);
                };
                let question = Question {
                    key: key.clone(),
                    park: self.parked.park,
                    redrive,
                    after: self.listed,
                };
                retried(|| bus.ask_to_go_on(subscriber, &question)).await?;
                self.asked = Some(Instant::now() + PATIENCE);
            }
            Some(deadline) => {
                let (_, park) = retried(|| bus.park_of(subscriber, key)).await?;
                match park {
                    None => return Ok(KeyStep::Unparked),
                    Some(park) if park.id != self.parked.park => return Err(self.failed_again()),
                    Some(_) if Instant::now() >= deadline => {
                        return Err(
                            self.still("the subscriber has not yet handled what was redriven last")
                        );
                    }
                    Some(_) => tokio::time::sleep(LOOK).await,
                }
            }
        }
        Ok(KeyStep::Waiting)
    }

    /// Writes a new redrive id into the park, so that earlier questions do not count; `None` when the key is not
    /// parked.
    async fn renew(&self) -> Result<Option<Uuid>, DeadLettersError> {
        let (subscriber, key) = (&self.parked.subscriber, &self.parked.key);
        let bus = &self.redriver.bus;
        loop {
            let (revision, park) = retried(|| bus.park_of(subscriber, key)).await?;
            let Some(mut park) = park else {
                return Ok(None);
            };
            if park.id != self.parked.park {
                return Err(self.failed_again());
            }
            let redrive = Uuid::now_v7();
            park.redrive = Some(redrive);
            if bus.write_park(subscriber, &park, revision).await? {
                return Ok(Some(redrive));
            }
        }
    }

    fn failed_again(&self) -> DeadLettersError {
        self.still("one of its events was dead-lettered again")
    }

    fn still(&self, reason: &str) -> DeadLettersError {
        DeadLettersError::StillParked {
            subscriber: self.parked.subscriber.clone(),
            key: self.parked.key.clone(),
            reason: reason.to_owned(),
        }
    }
}
