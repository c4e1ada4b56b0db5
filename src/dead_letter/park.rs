//! Bringing the letters of a parked key back, all of them, in the order of the key, until it may go on. Never
//! decides that it may: that is the subscriber's.
//!
//! While letters are brought back, later events of the key keep coming to the dead letters; so rounds are made until
//! one finds nothing. Then a question is put behind what was redriven. The subscriber has the key go on if no letter
//! of it has been stored since that round; else there is another round. A question of before a round does not count.
//!
//! Nobody has to be faster than the events come: a question that is not answered by going on has the key's later events
//! give way in the subscriber for a time, so that they become no letters. One is put before the letters of each round but
//! the first. A pace is for those of the first: the later ones are as new as any live event.

use std::{collections::VecDeque, time::Duration};

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    DeadLetterSelection, DeadLetters, DeadLettersError, Redriver, StoredDeadLetter, retried, stream,
};
use crate::bus::{Park, Question, Start, letters_of};

/// How long the subscriber may take to come to what was redriven last.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(100);

/// A key that a subscriber has parked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParkedKey {
    /// The subscriber.
    pub subscriber: String,
    /// The key.
    pub key: String,
    /// Since when.
    pub since: DateTime<Utc>,
    park: Uuid,
}

/// Brings one parked key back, step by step. Whoever asks for the steps sets the pace, and may stop after any.
#[derive(Debug)]
pub struct KeyRedrive {
    redriver: Redriver,
    parked: ParkedKey,
    /// The letters of this round, in the order of their key.
    queue: VecDeque<u64>,
    /// Up to this sequence there is none that is not in the queue.
    listed: u64,
    /// Up to this sequence they were there when it began.
    first_round: Option<u64>,
    /// When to give up waiting for the answer, once it was asked.
    asked: Option<Instant>,
}

/// What a step has done.
#[derive(Debug)]
#[non_exhaustive]
pub enum KeyStep {
    /// A letter was redriven.
    Redriven(Box<StoredDeadLetter>),
    /// All were, and the subscriber has not come to the last of them.
    Waiting,
    /// The key is not parked any more.
    Unparked,
}

impl DeadLetters {
    /// The keys that are parked, of the subscriber and the key that are selected.
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
    /// Brings the letters of a parked key back, and the key with them.
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

    /// The park that a letter has to pass: of a parked key only the first letter can be redriven by itself.
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
                    "{subscriber} has parked its key, and this is not the key's first letter: redrive the whole key"
                ),
            });
        }
        Ok(Some(park.id))
    }
}

impl KeyRedrive {
    /// The key.
    #[must_use]
    pub fn parked(&self) -> &ParkedKey {
        &self.parked
    }

    /// How many letters are listed and not redriven yet; more may have come since.
    #[must_use]
    pub fn left(&self) -> usize {
        self.queue.len()
    }

    /// Whether all letters are redriven that were there when it began. Those that are left came meanwhile, and while they
    /// are brought back the subscriber holds newer events of the key back: a pace is for the others.
    #[must_use]
    pub fn is_catching_up(&self) -> bool {
        let is_later = |first: u64| self.queue.iter().all(|sequence| *sequence > first);
        self.first_round.is_some_and(is_later)
    }

    /// Redrives the next letter, or looks whether the key may go on.
    ///
    /// # Errors
    /// [`DeadLettersError::StillParked`] when an event has failed again, or the subscriber does not come to what was
    /// redriven; else as [`Redriver::redrive`]. Whatever it is, the key stays parked, and another redrive goes on.
    ///
    /// # Cancel safety
    /// As [`Redriver::redrive`].
    pub async fn next(&mut self) -> Result<KeyStep, DeadLettersError> {
        loop {
            while let Some(sequence) = self.queue.pop_front() {
                let letters = DeadLetters::over(&self.redriver.bus);
                let redriven = match letters.find(sequence).await {
                    Ok(letter) => {
                        let passing = self.redriver.redrive_passing(&letter, self.parked.park);
                        passing.await.map(|()| letter)
                    }
                    Err(error) => Err(error),
                };
                match redriven {
                    Ok(letter) => return Ok(KeyStep::Redriven(Box::new(letter))),
                    // Somebody else has redriven or discarded it.
                    Err(DeadLettersError::Gone { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            if !self.begin_round().await? {
                return self.ask().await;
            }
        }
    }

    /// Has the key go on if none of its letters is left; false when one is, or it is not known in time.
    ///
    /// # Errors
    /// As [`KeyRedrive::next`].
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

    /// Looks for letters that are not redriven yet; when there are any, questions of before do not count.
    async fn begin_round(&mut self) -> Result<bool, DeadLettersError> {
        let (subscriber, key) = (&self.parked.subscriber, &self.parked.key);
        let bus = &self.redriver.bus;
        let (stream, letters) = (stream(), letters_of(subscriber));
        // What the leader has, a copy that lags has to show before its end is the end.
        let last = retried(|| bus.last_letter(subscriber)).await?;
        let mut found = Vec::new();
        while self.listed < last {
            let start = Start::Sequence(self.listed.saturating_add(1));
            let page = retried(|| bus.page(&stream, &letters, start)).await?;
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
        // What failed again comes after what it preceded: the order is that of the events.
        found.sort();
        self.queue = found.into_iter().map(|(_, _, sequence)| sequence).collect();
        self.asked = None;
        if self.renew().await?.is_some() && !is_first {
            self.ask_to_give_way().await?;
        }
        Ok(true)
    }

    /// A question that never counts: the letters of this round are behind it.
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

    /// Asks behind what was redriven whether the key may go on, and whether it does.
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
                            self.still("the subscriber has not come to what was redriven last")
                        );
                    }
                    Some(_) => tokio::time::sleep(LOOK).await,
                }
            }
        }
        Ok(KeyStep::Waiting)
    }

    /// Says in the mark that this redrive counts from now on; `None` when the key is not parked.
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
        self.still("one of its events was given up again")
    }

    fn still(&self, reason: &str) -> DeadLettersError {
        DeadLettersError::StillParked {
            subscriber: self.parked.subscriber.clone(),
            key: self.parked.key.clone(),
            reason: reason.to_owned(),
        }
    }
}
