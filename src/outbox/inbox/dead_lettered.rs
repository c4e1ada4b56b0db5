//! What the inbox remembers of a dead-lettered event, so that another delivery of it has no effect in addition to
//! its dead letter. Never decides to dead-letter an event, and never stores a dead letter.
//!
//! The note is written before the dead letter is stored, and updated when it is. An event that was redriven since is
//! handled: the transaction of its effect removes the note. If it is dead-lettered again, it gets a new note.

use std::{fmt::Write as _, time::Duration};

use chrono::{DateTime, Utc};
use futures::future::{BoxFuture, FutureExt};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Inbox, again};
use crate::{
    handler::{
        context::Facts,
        memory::{DeadLettered, Noted, Remembers},
    },
    outbox::{
        OutboxError, OutboxTransaction, Store,
        store::inbox::{Added, Memory},
    },
    policy::{
        failure::Failure,
        outcome::{Cause, DeadLetter},
    },
};

/// How long to wait for noting that a dead letter is stored: without the note, a later delivery can find it out.
const NOTING: Duration = Duration::from_secs(2);
/// How many events of a handler are noted as dead-lettered at once: a batch may have a thousand of them.
pub(super) const AT_ONCE: usize = 4;

/// A dead-lettered event, in one of its deliveries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// Its first stream position.
    stream: String,
    sequence: u64,
    stored_at: DateTime<Utc>,
    /// How often it was redriven before, and from which dead letter last.
    redrives: u32,
    #[serde(default)]
    redriven_from: u64,
    /// When it was dead-lettered, by the worker's clock.
    at: DateTime<Utc>,
    cause: String,
    error: String,
    attempts: u32,
    first_failed_at: Option<DateTime<Utc>>,
    /// Whether its dead letter is stored.
    is_buried: bool,
    /// The sequence of the dead letter; 0 when not known.
    #[serde(default)]
    letter: u64,
}

impl Note {
    fn of(facts: &Facts, letter: &DeadLetter) -> Self {
        Self {
            stream: facts.stream.to_string(),
            sequence: facts.sequence,
            stored_at: facts.stored_at,
            redrives: facts.redrives,
            redriven_from: facts.redriven_from,
            at: Utc::now(),
            cause: letter.cause.as_str().to_owned(),
            error: letter.error.clone(),
            attempts: letter.attempts,
            first_failed_at: letter.first_failed_at,
            is_buried: false,
            letter: 0,
        }
    }

    fn read(text: &str) -> Result<Self, OutboxError> {
        let read = serde_json::from_str(text);
        read.map_err(|error| OutboxError::database(sqlx::Error::Decode(error.into())))
    }

    /// In ASCII: a database may have any encoding, and none may prevent an event from being dead-lettered.
    fn text(&self) -> String {
        // Strings, numbers and times always serialise.
        let text = serde_json::to_string(self).unwrap_or_default();
        if text.is_ascii() {
            return text;
        }
        let mut ascii = String::with_capacity(text.len() * 3);
        for letter in text.chars() {
            if letter.is_ascii() {
                ascii.push(letter);
                continue;
            }
            for unit in letter.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(ascii, "\\u{unit:04x}");
            }
        }
        ascii
    }

    fn is_of(&self, facts: &Facts) -> bool {
        (&*self.stream, self.sequence) == (&*facts.stream, facts.sequence)
            && (self.stored_at, self.redrives) == (facts.stored_at, facts.redrives)
    }

    /// Whether the event was redriven since. A forged count may be at its maximum: then another dead letter means
    /// another redrive.
    fn is_before(&self, facts: &Facts) -> bool {
        facts.redrives > self.redrives
            || facts.redrives == u32::MAX && facts.redriven_from != self.redriven_from
    }

    fn why(&self) -> DeadLetter {
        let cause = Cause::from(&*self.cause);
        DeadLetter {
            first_failed_at: self.first_failed_at,
            ..DeadLetter::new(cause, &self.error, self.attempts)
        }
    }

    /// The note, for a delivery that was not redriven since.
    fn noted(self, text: String, facts: &Facts) -> Noted {
        Noted {
            is_this: self.is_of(facts),
            why: self.why(),
            stream: self.stream,
            sequence: self.sequence,
            stored_at: self.stored_at,
            redrives: self.redrives,
            at: self.at,
            letter: self.is_buried.then_some(self.letter),
            text,
        }
    }
}

/// What the inbox knows of an event that it holds.
pub(super) enum Known {
    Handled,
    /// It was dead-lettered; its dead letter may or may not be stored.
    DeadLettered(DeadLetter),
    /// It was dead-lettered, and redriven since: from now on, in this transaction, it is to be handled.
    Reopened {
        /// The note before.
        note: String,
    },
}

impl<DB: Store> Inbox<DB> {
    /// Returns what is known of an event that the inbox holds.
    pub(super) async fn known(
        &self,
        connection: &mut DB::Connection,
        memory: &Memory<'_>,
        facts: &Facts,
    ) -> Result<Known, OutboxError> {
        let event = [*facts.envelope.id().as_uuid()];
        let memory = Memory {
            events: &event,
            ..*memory
        };
        loop {
            let mut notes = self.notes(connection, &memory).await?;
            let Some((_, note)) = notes.pop() else {
                return Ok(Known::Handled);
            };
            let read = Note::read(&note)?;
            if !read.is_before(facts) {
                return Ok(Known::DeadLettered(read.why()));
            }
            if self.change(connection, &memory, Some(&note), None).await? {
                return Ok(Known::Reopened { note });
            }
        }
    }

    /// Returns the notes of those events that were dead-lettered.
    pub(super) async fn notes(
        &self,
        connection: &mut DB::Connection,
        memory: &Memory<'_>,
    ) -> Result<Vec<(Uuid, String)>, OutboxError> {
        let reading = DB::dead_lettered(connection, &self.outbox.shared.names, memory).await;
        self.outbox.translated(reading).await
    }

    /// Changes the note of one event; false when another transaction has done so.
    pub(super) async fn change(
        &self,
        connection: &mut DB::Connection,
        memory: &Memory<'_>,
        from: Option<&str>,
        to: Option<&str>,
    ) -> Result<bool, OutboxError> {
        let names = &self.outbox.shared.names;
        let changing = DB::mark(connection, names, memory, from, to).await;
        self.outbox.translated(changing).await
    }

    async fn give_it_up(
        &self,
        facts: &Facts,
        letter: &DeadLetter,
        lost: Option<&Noted>,
    ) -> Result<DeadLettered, OutboxError> {
        // The semaphore is never closed.
        let _permit = self.giving_up.acquire().await.ok();
        let mut tx = self.begin_to_note().await?;
        let noting = self.note_it_up(&mut tx, facts, letter, lost);
        match self.attend(noting).await {
            Ok((dead_lettered, true)) => {
                tx.commit().await?;
                Ok(dead_lettered)
            }
            Ok((dead_lettered, false)) => Ok(dead_lettered),
            Err(error) => Err(tx.lost(error)),
        }
    }

    /// Begins a transaction that reads and writes a note.
    async fn begin_to_note(&self) -> Result<OutboxTransaction<DB>, OutboxError> {
        let begun = self.outbox.begin_attended(DB::BEGIN_OWN).await;
        let begun = begun.map_err(OutboxError::database)?;
        Ok(OutboxTransaction::new(begun, self.outbox.clone()))
    }

    /// Writes the note; also returns whether anything was written.
    async fn note_it_up(
        &self,
        tx: &mut DB::Connection,
        facts: &Facts,
        letter: &DeadLetter,
        lost: Option<&Noted>,
    ) -> Result<(DeadLettered, bool), OutboxError> {
        let (remembered, period) = self.remember(tx, facts).await?;
        let event = [*facts.envelope.id().as_uuid()];
        let memory = self.memory(facts, period, &event);
        let note = Note::of(facts, letter).text();
        if remembered.added == Added::All {
            self.change(tx, &memory, None, Some(&note)).await?;
            return Ok((DeadLettered::Now, true));
        }
        if !remembered.ring.reaches(period) {
            // It was never handled, and never will be.
            return Ok((DeadLettered::Now, false));
        }
        loop {
            let Some((_, before)) = self.notes(tx, &memory).await?.pop() else {
                return Ok((DeadLettered::Ended, false));
            };
            let read = Note::read(&before)?;
            let is_lost = lost.is_some_and(|lost| lost.text == before);
            if !is_lost && !read.is_before(facts) {
                let noted = read.noted(before, facts);
                return Ok((DeadLettered::Before(noted.into()), false));
            }
            let changing = self.change(tx, &memory, Some(&before), Some(&note));
            if changing.await? {
                return Ok((DeadLettered::Now, true));
            }
        }
    }

    async fn note_dead_letter(&self, facts: &Facts, letter: u64) -> Result<(), OutboxError> {
        let _permit = self.giving_up.acquire().await.ok();
        let mut tx = self.begin_to_note().await?;
        let period = self.period(facts);
        let event = [*facts.envelope.id().as_uuid()];
        let memory = self.memory(facts, period, &event);
        let Some((_, before)) = self.notes(&mut tx, &memory).await?.pop() else {
            return Ok(());
        };
        let mut note = Note::read(&before)?;
        if note.is_of(facts) && !note.is_buried {
            (note.is_buried, note.letter) = (true, letter);
            let note = note.text();
            self.change(&mut tx, &memory, Some(&before), Some(&note))
                .await?;
            tx.commit().await?;
        }
        Ok(())
    }
}

impl<DB: Store> Remembers for Inbox<DB> {
    fn record_dead_letter<'a>(
        &'a self,
        facts: &'a Facts,
        letter: &'a DeadLetter,
        lost: Option<&'a Noted>,
    ) -> BoxFuture<'a, Result<DeadLettered, Failure>> {
        let giving_up = again(move || self.give_it_up(facts, letter, lost));
        giving_up
            .map(|done| done.map_err(Failure::unavailable))
            .boxed()
    }

    fn dead_letter_stored<'a>(
        &'a self,
        facts: &'a Facts,
        letter: u64,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        let noting = tokio::time::timeout(NOTING, self.note_dead_letter(facts, letter));
        let noting = noting.map(|noted| match noted {
            Ok(noted) => noted.map_err(Failure::unavailable),
            Err(late) => Err(Failure::unavailable(late)),
        });
        noting.boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidings_contract::Envelope;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::handler::context::Cancelled;

    fn facts(sequence: u64, redrives: u32) -> Facts {
        Facts {
            envelope: Arc::new(Envelope::raw("user.created", 1, None, "{}").unwrap()),
            subscriber: "w".into(),
            stream: "EVENTS".into(),
            sequence,
            stored_at: DateTime::UNIX_EPOCH,
            attempt: 1,
            first_failed_at: None,
            redrives,
            redriven_from: 0,
            timeout: Duration::from_secs(1),
            cancelled: Cancelled::by(&CancellationToken::new()),
            replay: None,
        }
    }

    fn note(facts: &Facts, is_buried: bool) -> Note {
        let letter = DeadLetter {
            cause: Cause::Rejected,
            error: "no".to_owned(),
            attempts: 3,
            first_failed_at: None,
            handler: None,
        };
        let text = Note::of(facts, &letter).text();
        Note {
            is_buried,
            ..Note::read(&text).unwrap()
        }
    }

    #[test]
    fn an_inbox_note_has_reason_delivery_and_dead_letter() {
        let told = |note: Note, facts: &Facts| {
            let text = note.text();
            let noted = note.noted(text, facts);
            (
                noted.is_this,
                noted.letter,
                noted.why.cause,
                noted.why.attempts,
            )
        };
        let first = facts(1, 0);
        assert_eq!(
            told(note(&first, false), &first),
            (true, None, Cause::Rejected, 3)
        );
        let other = facts(2, 0);
        assert_eq!(
            told(note(&first, true), &other),
            (false, Some(0), Cause::Rejected, 3)
        );
    }

    #[test]
    fn only_a_later_redrive_is_handled_again() {
        let noted = note(&facts(1, 1), false);
        assert!(noted.is_before(&facts(1, 2)));
        assert!(!noted.is_before(&facts(1, 0)) && !noted.is_before(&facts(2, 1)));
    }

    #[test]
    fn at_the_highest_count_the_dead_letter_names_its_redrive() {
        let at = |letter| Facts {
            redriven_from: letter,
            ..facts(1, u32::MAX)
        };
        let noted = note(&at(7), true);
        assert!(noted.is_before(&at(8)) && !noted.is_before(&at(7)));
    }

    #[test]
    fn a_note_is_ascii_for_any_error() {
        let mut noted = note(&facts(1, 0), false);
        noted.error = "\u{1f600} \u{e9} \u{200b} \u{0} \\u0041 \"".to_owned();
        let text = noted.text();
        assert!(text.is_ascii() && text.contains("\\ud83d\\ude00"), "{text}");
        assert_eq!(Note::read(&text).unwrap(), noted);
    }

    #[test]
    fn fuzz_notes() {
        let seed = r#"{"stream":"EVENTS","sequence":17,"stored_at":"2026-11-21T09:30:00Z","redrives":4294967295,
            "redriven_from":5,"at":"2026-11-21T09:30:00Z","cause":"exhausted","error":"\u00e9","attempts":3,
            "first_failed_at":null,"is_buried":true,"letter":18446744073709551615}"#;
        tidings_fuzz::fuzz_json("note of the inbox", &[seed], |text| {
            let Ok(note) = Note::read(&String::from_utf8_lossy(text)) else {
                return false;
            };
            let text = note.text();
            assert!(text.is_ascii());
            assert_eq!(Note::read(&text).unwrap(), note);
            assert_eq!(note.why().attempts, note.attempts);
            true
        });
    }
}
