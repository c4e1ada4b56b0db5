//! The parked keys that a command affects. Never redrives more than one key at a time.

use std::collections::BTreeSet;

use tidings::dead_letters::{
    DeadLetterSelection, DeadLetters, DeadLettersError, KeyRedrive, KeyStep, Redriver,
    StoredDeadLetter,
};
use tokio::time::{Duration, Instant, Interval};
use tokio_util::sync::CancellationToken;

use crate::cli::{output, report::Outcome};

/// The interval between progress reports.
const TOLD_EVERY: Duration = Duration::from_secs(2);

/// A subscriber and a key.
pub(super) type Key = (String, String);

/// The key of a dead letter.
pub(super) fn key_of(letter: &StoredDeadLetter) -> Option<Key> {
    let key = letter.key.clone()?;
    Some((letter.subscriber.clone(), key))
}

/// The parked keys whose dead letters are redriven or discarded one by one.
#[derive(Default)]
pub(super) struct Touched {
    parked: BTreeSet<Key>,
    touched: BTreeSet<Key>,
}

impl Touched {
    /// Starts with the keys that are parked now.
    pub(super) async fn of(dead_letters: &DeadLetters) -> Result<Self, DeadLettersError> {
        let all = DeadLetterSelection::default();
        let parked = dead_letters.parked_keys(&all).await?.into_iter();
        Ok(Self {
            parked: parked
                .map(|parked| (parked.subscriber, parked.key))
                .collect(),
            touched: BTreeSet::new(),
        })
    }

    pub(super) fn note(&mut self, letter: &StoredDeadLetter) {
        let key = key_of(letter).filter(|key| self.parked.contains(key));
        self.touched.extend(key);
    }

    /// Unparks each of those keys that has no dead letters left.
    pub(super) async fn unpark(&self, dead_letters: &DeadLetters) -> Outcome {
        for (subscriber, key) in &self.touched {
            let of_key = DeadLetterSelection::default()
                .subscriber(subscriber)
                .key(key);
            for parked in dead_letters.parked_keys(&of_key).await? {
                let redriver = dead_letters.redriver().await?;
                if redriver.redrive_key(&parked).unpark_if_empty().await? {
                    output::note(format!(
                        "the key {key} is no longer parked for {subscriber}"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Redrives a parked key, and passes each dead letter to `tell`. After an error the rest of the key stays parked. The
/// pace applies to the dead letters that exist at the beginning; later ones would arrive as fast if the key were not
/// parked.
pub(super) async fn redrive(
    redriver: &Redriver,
    parked: &tidings::dead_letters::ParkedKey,
    pace: &mut Interval,
    stop: &CancellationToken,
    mut tell: impl FnMut(&StoredDeadLetter),
) -> Result<(), DeadLettersError> {
    let mut key: KeyRedrive = redriver.redrive_key(parked);
    let mut progress = Progress::new();
    loop {
        if stop.is_cancelled() {
            return Ok(());
        }
        let is_later = key.is_catching_up();
        if !is_later {
            tokio::select! {
                _ = pace.tick() => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
        // Not cancelled: between publishing and deletion a dead letter exists twice.
        match key.next().await? {
            KeyStep::Redriven(letter) => {
                tell(&letter);
                progress.redriven(&key, is_later);
            }
            KeyStep::Unparked => return Ok(()),
            _ => {}
        }
    }
}

/// Reports the progress of a key on stderr.
struct Progress {
    told: Instant,
    redriven: u64,
    is_later: bool,
}

impl Progress {
    fn new() -> Self {
        Self {
            told: Instant::now(),
            redriven: 0,
            is_later: false,
        }
    }

    /// Counts a redriven dead letter. `is_later`: it arrived after the beginning.
    fn redriven(&mut self, of: &KeyRedrive, is_later: bool) {
        self.redriven += 1;
        let is_turn = is_later != self.is_later;
        if !is_turn && self.told.elapsed() < TOLD_EVERY {
            return;
        }
        self.is_later = is_later;
        self.told = Instant::now();
        let (redriven, left) = (self.redriven, of.left());
        let key = output::printable(&of.parked().key);
        match is_later {
            false => output::note(format!("{redriven} redriven of the key {key}, {left} left")),
            true => output::note(format!(
                "{redriven} redriven of the key {key}, with all that were there at the start; {left} newer ones are left, are \
                 redriven without --rate, and later events of the key wait for them"
            )),
        }
    }
}
