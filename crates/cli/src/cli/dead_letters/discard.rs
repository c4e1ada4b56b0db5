//! `tidings dead-letters discard`: deletes dead letters permanently. Never without printing them.

use clap::Args;
use tidings::dead_letters::{DeadLetterSelection, DeadLetters, DeadLettersError};

use super::{Which, not_there, parked::Touched};
use crate::{
    cli::{
        connect,
        consent::{Consent, NOTHING_CHANGED},
        output,
        report::{Exit, Outcome, Report},
        told_to_stop,
    },
    config::Config,
};

#[derive(Args)]
pub(super) struct Discard {
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    which: Which,
}

impl Discard {
    /// Prints each dead letter before deleting it, so that the operator can keep it.
    pub(super) async fn run(&self, config: &Config) -> Outcome {
        let selection = self.which.selection()?;
        let bus = connect(config).await?;
        let dead_letters = DeadLetters::new(&bus);
        let Some((count, last)) = count(&dead_letters, selection.clone()).await? else {
            return match self.which.letter {
                Some(letter) => Err(not_there(letter)),
                None => Ok(()),
            };
        };
        if !self
            .consent
            .to(&format!("deletes {} for good", letters_text(count)))?
        {
            return Ok(output::line(NOTHING_CHANGED)?);
        }
        let stop = told_to_stop();
        let mut letters = dead_letters.read(selection).await?;
        let mut touched = Touched::of(&dead_letters).await?;
        let discarding = async {
            loop {
                let letter = tokio::select! {
                    letter = letters.next() => letter?,
                    () = stop.cancelled() => return Ok(()),
                };
                // Dead letters that arrived after the question are not deleted.
                let Some(letter) = letter.filter(|letter| letter.sequence <= last) else {
                    return Ok(());
                };
                output::kept(&letter)?;
                dead_letters.discard(&letter).await?;
                touched.note(&letter);
            }
        };
        let ended: Outcome = discarding.await;
        // Keys without dead letters are unparked, even when the loop stopped early.
        touched.unpark(&dead_letters).await?;
        ended?;
        match stop.is_cancelled() {
            false => Ok(()),
            true => Err(
                Report::new(Exit::Failed, "the command was stopped before its end")
                    .cure("run the same command again; it continues with what is left"),
            ),
        }
    }
}

/// How many there are, and the last one; `None` without any.
async fn count(
    dead_letters: &DeadLetters,
    selection: DeadLetterSelection,
) -> Result<Option<(u64, u64)>, DeadLettersError> {
    let mut letters = dead_letters.read(selection).await?;
    let mut found = None;
    while let Some(letter) = letters.next().await? {
        let (count, _) = found.unwrap_or((0, 0));
        found = Some((count + 1, letter.sequence));
    }
    Ok(found)
}

fn letters_text(count: u64) -> String {
    match count {
        1 => "1 dead letter".to_owned(),
        count => format!("{count} dead letters"),
    }
}
